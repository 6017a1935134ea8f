"""Moving stickers: what moves, where to, and that the truth says so."""

from dataclasses import replace

import numpy as np
import pytest

from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.clips import ObjectMotion, StickerClip
from dianjing.train.stickers.motions import MOTIONS
from dianjing.train.stickers.rendering import render_scene
from dianjing.train.stickers.scenes import CANVAS_PX

SIZE_PX, NUM_FRAMES, FPS = 64, 8, 8.0
WORLD = StickerWorld(
    size_px=SIZE_PX, stages=[CurriculumStage(scene_weights={"single": 1.0, "pair": 1.0}, grid_px=(16,))]
)
BY_NAME = {motion.name: index for index, motion in enumerate(MOTIONS)}
NAMES = tuple(BY_NAME)


def clip_at(position: int) -> StickerClip:
    return WORLD.get_captioned_clip(3, position, num_frames=NUM_FRAMES, fps=FPS)


def clip_of(name: str, amplitude: float, *, size_px: int = SIZE_PX) -> StickerClip:
    """One object in the middle, moving."""
    alone = StickerWorld(size_px=size_px, stages=[CurriculumStage(scene_weights={"single": 1.0}, grid_px=(16,))])
    clip = alone.get_captioned_clip(0, 0, num_frames=NUM_FRAMES, fps=FPS)
    (item,) = clip.scene.instances
    scene = replace(clip.scene, instances=(replace(item, x_px=32, y_px=32, size_px=64),))
    return StickerClip(
        scene, (ObjectMotion(motion=BY_NAME[name], amplitude=amplitude),), "", "", size_px, NUM_FRAMES, FPS
    )


def centre_of(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()])


@pytest.mark.parametrize("name", NAMES)
def test_a_pose_undone_gives_back_every_point(name):
    u, v = np.random.default_rng(0).uniform(-1, 1, (2, 200))
    for t in (0.0, 0.3, 0.9):
        pose = MOTIONS[BY_NAME[name]].get_pose(t, 0.8)
        back = pose.map_backward(*pose.map_forward(u, v, side_px=40), side_px=40)
        np.testing.assert_allclose(back, (u, v), atol=1e-9)


def test_the_first_frame_is_the_still_picture():
    for position in range(8):
        clip = clip_at(position)
        np.testing.assert_array_equal(clip.frames[0], render_scene(clip.scene, size_px=SIZE_PX))


@pytest.mark.parametrize(
    ("name", "direction"), [("left", (-1, 0)), ("right", (1, 0)), ("up", (0, -1)), ("down", (0, 1))]
)
def test_directions_are_what_they_are_called(name, direction):
    clip = clip_of(name, 0.6)
    moved = centre_of(clip.masks[-1, 0]) - centre_of(clip.masks[0, 0])
    expected = 48 * 0.6 * (NUM_FRAMES - 1) / FPS * SIZE_PX / CANVAS_PX * np.array(direction)
    np.testing.assert_allclose(moved, expected, atol=0.5)


def test_a_jump_leaves_the_ground_and_comes_back():
    centres = np.array([centre_of(mask[0])[1] for mask in clip_of("jump", 1.0).masks])
    assert centres[4] < centres[0] - 10
    assert abs(centres[1] - centres[7]) < 1  # as high a frame after the start as a frame before the end


@pytest.mark.parametrize("name", ["flap", "nod"])
def test_only_a_part_of_what_flaps_or_nods_moves(name):
    flow = np.linalg.norm(clip_of(name, 1.0, size_px=128).forward_flow, axis=-1).max(axis=0)
    rest = {"flap": np.s_[:, 62:66], "nod": np.s_[65:, :]}[name]
    assert flow.max() > 3
    assert flow[rest].max() < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_the_flow_leads_to_the_same_object_in_the_next_frame(name):
    clip = clip_of(name, 0.7, size_px=128)
    for frame in range(NUM_FRAMES - 1):
        rows, columns = np.nonzero(clip.masks[frame, 0])
        x, y = (clip.forward_flow[frame, rows, columns] + np.stack([columns, rows], -1)).round().astype(int).T
        arrived = clip.masks[frame + 1, 0][y.clip(0, 127), x.clip(0, 127)]
        assert arrived.mean() > 0.93


def test_more_amplitude_is_more_strength():
    for name in NAMES:
        strengths = [clip_of(name, amplitude).strengths[0] for amplitude in (0.3, 0.6, 1.0)]
        assert strengths == sorted(strengths), name
        assert strengths[0] > 0


def test_what_stands_still_has_no_flow_and_no_strength():
    clip = next(c for c in map(clip_at, range(100)) if None in c.object_motions)
    still = clip.object_motions.index(None)
    assert clip.strengths[still] == 0
    assert all(
        strength > 0 for strength, move in zip(clip.strengths, clip.object_motions, strict=True) if move is not None
    )


def test_objects_stay_in_the_picture_in_every_frame():
    for position in range(20):
        masks = clip_at(position).masks
        assert masks.any(axis=(2, 3)).all()


def test_a_clip_is_a_function_of_seed_and_position_and_keeps_to_its_split():
    a, b = clip_at(5), clip_at(5)
    assert (a.scene, a.object_motions, a.text_zh, a.text_en) == (b.scene, b.object_motions, b.text_zh, b.text_en)
    held_out = StickerWorld(size_px=64, stages=WORLD.stages, split="held_out").get_captioned_clip(
        3, 5, num_frames=8, fps=8.0
    )
    assert held_out.scene != a.scene


def test_captions_say_what_moves_in_both_languages():
    for position in range(40):
        clip = clip_at(position)
        for move in clip.object_motions:
            if move is not None:
                motion = MOTIONS[move.motion]
                assert any(verb in clip.text_en for verb in motion.verbs_en)
                assert any(verb in clip.text_zh for verb in motion.verbs_zh)


def test_counted_objects_move_together_in_a_clip_and_one_by_one_after_clicks():
    world = StickerWorld(size_px=32, stages=[CurriculumStage(scene_weights={"count": 1.0}, grid_px=(16,))])
    clips = [world.get_captioned_clip(0, position, num_frames=4, fps=FPS) for position in range(30)]
    assert all(len(set(clip.object_motions)) == 1 for clip in clips)
    clicks = [world.get_controlled_clip(0, position, num_frames=4, fps=FPS) for position in range(30)]
    assert all(any(move is not None for move in clip.object_motions) for clip in clicks)
    assert any(None in clip.object_motions for clip in clicks)
    assert any(len(set(clip.object_motions) - {None}) > 1 for clip in clicks)
