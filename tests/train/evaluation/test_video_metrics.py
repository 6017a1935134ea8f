"""The judges of clips: a perfect model scores everything, one that does nothing or too much does not."""

from dataclasses import replace

import numpy as np
import pytest

from dianjing.train.evaluation.video_generation import get_ground_truth_video, take_first
from dianjing.train.evaluation.video_metrics import (
    AnimationResult,
    compute_rank_correlation,
    evaluate_motion_control,
    evaluate_strength_control,
    evaluate_text_to_video,
    get_motion_requests,
    iterate_captioned_clips,
    iterate_controlled_clips,
    measure_mask_iou,
    measure_outside_change,
    measure_temporal_flickering,
)
from dianjing.train.stickers.clips import ObjectMotion
from dianjing.train.stickers.matching import SpriteMatcher

WORLD = {"size_px": 64, "seed": 0, "num_frames": 8, "fps": 8.0}


def speed(phrase: str, strength: float) -> float:
    return strength


def shown(frames):
    return AnimationResult(frames=frames, decoded_first_frame=frames[0])


def test_a_perfect_model_moves_every_click_and_one_that_does_nothing_none():
    clips = take_first(iterate_controlled_clips(num_moving=1, **WORLD), 2)
    figures, made = evaluate_motion_control(
        lambda clip, asked, seed: shown(clip.frames), speed, clips, language="zh", seed=0
    )
    assert figures["motion_accuracy"] == [True, True]
    assert max(figures["outside_change"]) < 0.01
    assert figures["i1_mse"] == [0, 0]
    assert len(made) == 2

    def one_level_off(clip, asked, seed):
        still = np.repeat(clip.frames[:1], 8, axis=0)
        frames = np.where(still < 255, still + 1, 254).astype(np.uint8)
        return AnimationResult(frames=frames, decoded_first_frame=clip.frames[0])

    figures, _ = evaluate_motion_control(one_level_off, speed, clips, language="en", seed=0)
    assert figures["motion_accuracy"] == [False, False]
    assert figures["i1_mse"] == [1, 1]
    assert figures["i1_mse_decoded"] == [0, 0]


def test_two_clicks_are_right_only_together():
    (clip,) = take_first(iterate_controlled_clips(num_moving=2, **WORLD), 1)
    assert len([move for move in clip.object_motions if move is not None]) == 2
    item = next(index for index, move in enumerate(clip.object_motions) if move is not None)
    half = replace(clip, object_motions=(*clip.object_motions[:item], None, *clip.object_motions[item + 1 :]))
    figures, _ = evaluate_motion_control(
        lambda clip, asked, seed: shown(half.frames), speed, [clip], language="en", seed=0
    )
    assert figures["motion_accuracy"] == [False]


def test_what_is_asked_names_the_motion_and_its_strength():
    clip = next(iterate_controlled_clips(num_moving=1, **WORLD))
    item = next(index for index, move in enumerate(clip.object_motions) if move is not None)
    for place, language in enumerate(("zh", "en")):
        (asked,) = get_motion_requests(clip, language, lambda phrase, strength: 2.0 * strength, paraphrase_index=1)
        assert asked.instance_index == item
        assert asked.phrase in clip.motion_phrases[item][place]
        assert asked.strength == pytest.approx(clip.strengths[item] / 2)


def test_change_counts_where_nothing_should_move():
    clip = next(iterate_controlled_clips(num_moving=1, **WORLD))
    assert measure_outside_change(clip.frames, clip) < 0.01
    spoilt = clip.frames.copy()
    outside = ~clip.masks.any(axis=(0, 1))
    rows, columns = (places[: outside.size // 20] for places in np.nonzero(outside))
    spoilt[3, rows, columns] = 255 - spoilt[0, rows, columns]
    assert measure_outside_change(spoilt, clip) == pytest.approx(0.05, abs=0.02)


def test_a_film_without_change_does_not_flicker():
    assert measure_temporal_flickering(np.full((4, 8, 8, 3), 90, np.uint8)) == 1
    black_and_white = np.stack([np.full((8, 8, 3), level, np.uint8) for level in (0, 255, 0)])
    assert measure_temporal_flickering(black_and_white) == 0


def test_rank_correlation_is_of_the_order_alone():
    assert compute_rank_correlation([1, 2, 3, 4], [1, 10, 11, 500]) == pytest.approx(1)
    assert compute_rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert compute_rank_correlation([1, 2, 3, 4], [5, 5, 5, 5]) == 0


def test_more_strength_that_is_more_motion_correlates():
    clip = next(
        clip for clip in iterate_controlled_clips(num_moving=1, **WORLD) if clip.scene.instances[0].size_px >= 56
    )
    item = next(index for index, move in enumerate(clip.object_motions) if move is not None)

    def animate(clip, asked, seed):
        move = ObjectMotion(motion=clip.object_motions[item].motion, amplitude=0.9 * asked[0].strength)
        return shown(
            replace(clip, object_motions=(*clip.object_motions[:item], move, *clip.object_motions[item + 1 :])).frames
        )

    figures, made = evaluate_strength_control(animate, speed, [clip], language="en", seed=0)
    assert figures["rank_correlation"] == [pytest.approx(1)]
    assert len(made) == 5


def test_a_mask_is_compared_with_the_object_under_the_click():
    clip = next(iterate_controlled_clips(num_moving=1, **WORLD))
    item = next(index for index, move in enumerate(clip.object_motions) if move is not None)
    truth = clip.masks[0, item]
    assert measure_mask_iou(lambda picture, x, y: truth & truth[int(y), int(x)], [clip]) == 1
    assert measure_mask_iou(lambda picture, x, y: ~truth, [clip]) == 0


def test_films_are_right_when_their_objects_are_there_and_move_as_told():
    clips = take_first(iterate_captioned_clips(**WORLD), 3)
    matcher = SpriteMatcher(size_px=64)
    figures, _ = evaluate_text_to_video(get_ground_truth_video, matcher, clips, language="zh", seed=0)
    assert all(figures["motion_accuracy"] + figures["object_consistency"])
    another = lambda clip, language, seed: clips[0].frames  # noqa: E731
    figures, _ = evaluate_text_to_video(another, matcher, clips[1:], language="en", seed=0)
    assert not any(figures["motion_accuracy"] + figures["object_consistency"])


def test_an_object_that_turns_into_another_is_not_in_every_frame():
    (clip,) = take_first((clip for clip in iterate_captioned_clips(**WORLD) if len(clip.object_motions) == 1), 1)
    thing = (clip.scene.instances[0].class_id + 100) % 367
    other = replace(clip.scene, instances=(replace(clip.scene.instances[0], class_id=thing, colour=None),))
    frames = clip.frames.copy()
    frames[-1] = replace(clip, scene=other).frames[-1]
    figures, _ = evaluate_text_to_video(lambda *_: frames, SpriteMatcher(size_px=64), [clip], language="en", seed=0)
    assert figures["object_consistency"] == [False]
