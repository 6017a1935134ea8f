"""Metrics of clips: a perfect model reaches the maximum, one that does nothing or too much does not."""

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
    find_deepest_point,
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


def get_speed(phrase: str, strength: float) -> float:
    return strength


def make_result(frames):
    return AnimationResult(frames=frames, decoded_first_frame=frames[0])


def test_a_perfect_model_moves_every_region_and_an_idle_one_none():
    clips = take_first(iterate_controlled_clips(num_moving=1, **WORLD), 2)
    metrics, videos = evaluate_motion_control(
        lambda clip, requests, seed: make_result(clip.frames), get_speed, clips, language="zh", seed=0
    )
    assert metrics["motion_accuracy"] == [True, True]
    assert max(metrics["outside_change"]) < 0.01
    assert metrics["i1_mse"] == [0, 0]
    assert len(videos) == 2

    def one_level_off(clip, requests, seed):
        still = np.repeat(clip.frames[:1], 8, axis=0)
        frames = np.where(still < 255, still + 1, 254).astype(np.uint8)
        return AnimationResult(frames=frames, decoded_first_frame=clip.frames[0])

    metrics, _ = evaluate_motion_control(one_level_off, get_speed, clips, language="en", seed=0)
    assert metrics["motion_accuracy"] == [False, False]
    assert metrics["i1_mse"] == [1, 1]
    assert metrics["i1_mse_decoded"] == [0, 0]


def test_two_regions_are_correct_only_together():
    (clip,) = take_first(iterate_controlled_clips(num_moving=2, **WORLD), 1)
    assert len([each for each in clip.object_motions if each is not None]) == 2
    index = next(i for i, each in enumerate(clip.object_motions) if each is not None)
    incomplete = replace(clip, object_motions=(*clip.object_motions[:index], None, *clip.object_motions[index + 1 :]))
    metrics, _ = evaluate_motion_control(
        lambda clip, requests, seed: make_result(incomplete.frames), get_speed, [clip], language="en", seed=0
    )
    assert metrics["motion_accuracy"] == [False]


def test_requests_name_the_motion_and_its_strength():
    clip = next(iterate_controlled_clips(num_moving=1, **WORLD))
    index = next(i for i, each in enumerate(clip.object_motions) if each is not None)
    for column, language in enumerate(("zh", "en")):
        (request,) = get_motion_requests(clip, language, lambda phrase, strength: 2.0 * strength, paraphrase_index=1)
        assert request.instance_index == index
        assert request.phrase in clip.motion_phrases[index][column]
        assert request.strength == pytest.approx(clip.strengths[index] / 2)


def test_change_outside_the_tracks_is_measured():
    clip = next(iterate_controlled_clips(num_moving=1, **WORLD))
    assert measure_outside_change(clip.frames, clip) < 0.01
    disturbed = clip.frames.copy()
    outside = ~clip.masks.any(axis=(0, 1))
    rows, columns = (indices[: outside.size // 20] for indices in np.nonzero(outside))
    disturbed[3, rows, columns] = 255 - disturbed[0, rows, columns]
    assert measure_outside_change(disturbed, clip) == pytest.approx(0.05, abs=0.02)


def test_a_constant_video_does_not_flicker():
    assert measure_temporal_flickering(np.full((4, 8, 8, 3), 90, np.uint8)) == 1
    black_and_white = np.stack([np.full((8, 8, 3), level, np.uint8) for level in (0, 255, 0)])
    assert measure_temporal_flickering(black_and_white) == 0


def test_rank_correlation_depends_on_the_order_alone():
    assert compute_rank_correlation([1, 2, 3, 4], [1, 10, 11, 500]) == pytest.approx(1)
    assert compute_rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert compute_rank_correlation([1, 2, 3, 4], [5, 5, 5, 5]) == 0


def test_motion_that_grows_with_strength_correlates():
    clip = next(
        clip for clip in iterate_controlled_clips(num_moving=1, **WORLD) if clip.scene.instances[0].size_px >= 56
    )
    index = next(i for i, each in enumerate(clip.object_motions) if each is not None)

    def animate(clip, requests, seed):
        motion = ObjectMotion(motion=clip.object_motions[index].motion, amplitude=0.9 * requests[0].strength)
        return make_result(
            replace(
                clip, object_motions=(*clip.object_motions[:index], motion, *clip.object_motions[index + 1 :])
            ).frames
        )

    metrics, videos = evaluate_strength_control(animate, get_speed, [clip], language="en", seed=0)
    assert metrics["rank_correlation"] == [pytest.approx(1)]
    assert len(videos) == 5


def test_a_mask_is_compared_with_the_object_at_the_point():
    clip = next(iterate_controlled_clips(num_moving=1, **WORLD))
    index = next(i for i, each in enumerate(clip.object_motions) if each is not None)
    true_mask = clip.masks[0, index]
    assert measure_mask_iou(lambda image, x, y: true_mask & true_mask[int(y), int(x)], [clip]) == 1
    assert measure_mask_iou(lambda image, x, y: ~true_mask, [clip]) == 0


def test_videos_are_correct_if_their_objects_are_there_and_move_as_requested():
    clips = take_first(iterate_captioned_clips(**WORLD), 3)
    matcher = SpriteMatcher(size_px=64)
    metrics, _ = evaluate_text_to_video(get_ground_truth_video, matcher, clips, language="zh", seed=0)
    assert all(metrics["motion_accuracy"] + metrics["object_consistency"])
    another = lambda clip, language, seed: clips[0].frames  # noqa: E731
    metrics, _ = evaluate_text_to_video(another, matcher, clips[1:], language="en", seed=0)
    assert not any(metrics["motion_accuracy"] + metrics["object_consistency"])


def test_an_object_that_becomes_another_is_not_consistent():
    (clip,) = take_first((clip for clip in iterate_captioned_clips(**WORLD) if len(clip.object_motions) == 1), 1)
    class_id = (clip.scene.instances[0].class_id + 100) % 367
    other = replace(clip.scene, instances=(replace(clip.scene.instances[0], class_id=class_id, colour=None),))
    frames = clip.frames.copy()
    frames[-1] = replace(clip, scene=other).frames[-1]
    metrics, _ = evaluate_text_to_video(lambda *_: frames, SpriteMatcher(size_px=64), [clip], language="en", seed=0)
    assert metrics["object_consistency"] == [False]


def test_the_deepest_point_is_the_center_of_a_square_at_the_edge():
    mask = np.zeros((32, 32), bool)
    mask[0:9, 20:32] = True
    x, y = find_deepest_point(mask)
    assert y == 4.5
    assert 24 < x < 28
