"""The judges of clips: a perfect model scores everything, one that does nothing or too much does not."""

from dataclasses import replace

import numpy as np
import pytest

from dianjing.train.clip_judges import (
    Animated,
    asked_of,
    changed_elsewhere,
    films,
    judge_clicks,
    judge_films,
    judge_strengths,
    mask_iou,
    rank_correlation,
    scenes,
    temporal_flickering,
)
from dianjing.train.evaluate_clips import first, true_film
from dianjing.train.stickers.clips import Move
from dianjing.train.stickers.matching import Matcher

WORLD = {"size_px": 64, "seed": 0, "num_frames": 8, "fps": 8.0}


def speed(phrase: str, strength: float) -> float:
    return strength


def shown(frames):
    return Animated(frames=frames, decoded_first=frames[0])


def test_a_perfect_model_moves_every_click_and_one_that_does_nothing_none():
    clips = first(scenes(moving=1, **WORLD), 2)
    figures, made = judge_clicks(lambda clip, asked, seed: shown(clip.frames), speed, clips, language="zh", seed=0)
    assert figures["motion_right"] == [True, True]
    assert max(figures["changed_elsewhere"]) < 0.01
    assert figures["i1_mse"] == [0, 0]
    assert len(made) == 2

    def one_level_off(clip, asked, seed):
        still = np.repeat(clip.frames[:1], 8, axis=0)
        frames = np.where(still < 255, still + 1, 254).astype(np.uint8)
        return Animated(frames=frames, decoded_first=clip.frames[0])

    figures, _ = judge_clicks(one_level_off, speed, clips, language="en", seed=0)
    assert figures["motion_right"] == [False, False]
    assert figures["i1_mse"] == [1, 1]
    assert figures["i1_mse_decoded"] == [0, 0]


def test_two_clicks_are_right_only_together():
    (clip,) = first(scenes(moving=2, **WORLD), 1)
    assert len([move for move in clip.moves if move is not None]) == 2
    item = next(index for index, move in enumerate(clip.moves) if move is not None)
    half = replace(clip, moves=(*clip.moves[:item], None, *clip.moves[item + 1 :]))
    figures, _ = judge_clicks(lambda clip, asked, seed: shown(half.frames), speed, [clip], language="en", seed=0)
    assert figures["motion_right"] == [False]


def test_what_is_asked_names_the_motion_and_its_strength():
    clip = next(scenes(moving=1, **WORLD))
    item = next(index for index, move in enumerate(clip.moves) if move is not None)
    for place, language in enumerate(("zh", "en")):
        (asked,) = asked_of(clip, language, lambda phrase, strength: 2.0 * strength, choice=1)
        assert asked.item == item
        assert asked.phrase in clip.phrases[item][place]
        assert asked.strength == pytest.approx(clip.strengths[item] / 2)


def test_change_counts_where_nothing_should_move():
    clip = next(scenes(moving=1, **WORLD))
    assert changed_elsewhere(clip.frames, clip) < 0.01
    spoilt = clip.frames.copy()
    outside = ~clip.masks.any(axis=(0, 1))
    rows, columns = (places[: outside.size // 20] for places in np.nonzero(outside))
    spoilt[3, rows, columns] = 255 - spoilt[0, rows, columns]
    assert changed_elsewhere(spoilt, clip) == pytest.approx(0.05, abs=0.02)


def test_a_film_without_change_does_not_flicker():
    assert temporal_flickering(np.full((4, 8, 8, 3), 90, np.uint8)) == 1
    black_and_white = np.stack([np.full((8, 8, 3), level, np.uint8) for level in (0, 255, 0)])
    assert temporal_flickering(black_and_white) == 0


def test_rank_correlation_is_of_the_order_alone():
    assert rank_correlation([1, 2, 3, 4], [1, 10, 11, 500]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4], [5, 5, 5, 5]) == 0


def test_more_strength_that_is_more_motion_correlates():
    clip = next(clip for clip in scenes(moving=1, **WORLD) if clip.scene.items[0].size_px >= 56)
    item = next(index for index, move in enumerate(clip.moves) if move is not None)

    def animate(clip, asked, seed):
        move = Move(motion=clip.moves[item].motion, amplitude=0.9 * asked[0].strength)
        return shown(replace(clip, moves=(*clip.moves[:item], move, *clip.moves[item + 1 :])).frames)

    figures, made = judge_strengths(animate, speed, [clip], language="en", seed=0)
    assert figures["rank_correlation"] == [pytest.approx(1)]
    assert len(made) == 5


def test_a_mask_is_compared_with_the_object_under_the_click():
    clip = next(scenes(moving=1, **WORLD))
    item = next(index for index, move in enumerate(clip.moves) if move is not None)
    truth = clip.masks[0, item]
    assert mask_iou(lambda picture, x, y: truth & truth[int(y), int(x)], [clip]) == 1
    assert mask_iou(lambda picture, x, y: ~truth, [clip]) == 0


def test_films_are_right_when_their_objects_are_there_and_move_as_told():
    clips = first(films(**WORLD), 3)
    matcher = Matcher(size_px=64)
    figures, _ = judge_films(true_film, matcher, clips, language="zh", seed=0)
    assert all(figures["motion_right"] + figures["object_in_every_frame"])
    another = lambda clip, language, seed: clips[0].frames  # noqa: E731
    figures, _ = judge_films(another, matcher, clips[1:], language="en", seed=0)
    assert not any(figures["motion_right"] + figures["object_in_every_frame"])


def test_an_object_that_turns_into_another_is_not_in_every_frame():
    (clip,) = first((clip for clip in films(**WORLD) if len(clip.moves) == 1), 1)
    thing = (clip.scene.items[0].thing + 100) % 367
    other = replace(clip.scene, items=(replace(clip.scene.items[0], thing=thing, colour=None),))
    frames = clip.frames.copy()
    frames[-1] = replace(clip, scene=other).frames[-1]
    figures, _ = judge_films(lambda *_: frames, Matcher(size_px=64), [clip], language="en", seed=0)
    assert figures["object_in_every_frame"] == [False]
