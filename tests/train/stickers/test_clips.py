"""Clips: frames, masks and flow of moving objects agree, and captions name the motions."""

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


def get_clip(position: int) -> StickerClip:
    return WORLD.get_captioned_clip(3, position, num_frames=NUM_FRAMES, fps=FPS)


def make_clip(name: str, amplitude: float, *, size_px: int = SIZE_PX) -> StickerClip:
    """A clip of one moving object in the centre."""
    world = StickerWorld(size_px=size_px, stages=[CurriculumStage(scene_weights={"single": 1.0}, grid_px=(16,))])
    clip = world.get_captioned_clip(0, 0, num_frames=NUM_FRAMES, fps=FPS)
    (instance,) = clip.scene.instances
    scene = replace(clip.scene, instances=(replace(instance, x_px=32, y_px=32, size_px=64),))
    return StickerClip(
        scene, (ObjectMotion(motion=BY_NAME[name], amplitude=amplitude),), "", "", size_px, NUM_FRAMES, FPS
    )


def get_center(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean(), rows.mean()])


@pytest.mark.parametrize("name", NAMES)
def test_backward_mapping_inverts_forward_mapping(name):
    u, v = np.random.default_rng(0).uniform(-1, 1, (2, 200))
    for t in (0.0, 0.3, 0.9):
        pose = MOTIONS[BY_NAME[name]].get_pose(t, 0.8)
        back = pose.map_backward(*pose.map_forward(u, v, side_px=40), side_px=40)
        np.testing.assert_allclose(back, (u, v), atol=1e-9)


def test_the_first_frame_is_the_scene_at_rest():
    for position in range(8):
        clip = get_clip(position)
        np.testing.assert_array_equal(clip.frames[0], render_scene(clip.scene, size_px=SIZE_PX))


@pytest.mark.parametrize(
    ("name", "direction"), [("left", (-1, 0)), ("right", (1, 0)), ("up", (0, -1)), ("down", (0, 1))]
)
def test_objects_move_in_the_named_direction(name, direction):
    clip = make_clip(name, 0.6)
    offset = get_center(clip.masks[-1, 0]) - get_center(clip.masks[0, 0])
    expected = 48 * 0.6 * (NUM_FRAMES - 1) / FPS * SIZE_PX / CANVAS_PX * np.array(direction)
    np.testing.assert_allclose(offset, expected, atol=0.5)


def test_a_jump_leaves_the_ground_and_comes_back():
    centers = np.array([get_center(mask[0])[1] for mask in make_clip("jump", 1.0).masks])
    assert centers[4] < centers[0] - 10
    assert abs(centers[1] - centers[7]) < 1  # one frame after the start and one frame before the end


@pytest.mark.parametrize("name", ["flap", "nod"])
def test_only_a_part_of_an_object_that_flaps_or_nods_moves(name):
    flow = np.linalg.norm(make_clip(name, 1.0, size_px=128).forward_flow, axis=-1).max(axis=0)
    static = {"flap": np.s_[:, 62:66], "nod": np.s_[65:, :]}[name]
    assert flow.max() > 3
    assert flow[static].max() < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_the_flow_leads_to_the_same_object_in_the_next_frame(name):
    clip = make_clip(name, 0.7, size_px=128)
    for frame in range(NUM_FRAMES - 1):
        rows, columns = np.nonzero(clip.masks[frame, 0])
        x, y = (clip.forward_flow[frame, rows, columns] + np.stack([columns, rows], -1)).round().astype(int).T
        is_object = clip.masks[frame + 1, 0][y.clip(0, 127), x.clip(0, 127)]
        assert is_object.mean() > 0.93


def test_more_amplitude_is_more_strength():
    for name in NAMES:
        strengths = [make_clip(name, amplitude).strengths[0] for amplitude in (0.3, 0.6, 1.0)]
        assert strengths == sorted(strengths), name
        assert strengths[0] > 0


def test_an_object_at_rest_has_no_flow_and_no_strength():
    clip = next(c for c in map(get_clip, range(100)) if None in c.object_motions)
    index = clip.object_motions.index(None)
    assert clip.strengths[index] == 0
    assert all(
        strength > 0 for strength, motion in zip(clip.strengths, clip.object_motions, strict=True) if motion is not None
    )


def test_objects_are_visible_in_every_frame():
    for position in range(20):
        masks = get_clip(position).masks
        assert masks.any(axis=(2, 3)).all()


def test_a_clip_depends_on_seed_position_and_split_alone():
    a, b = get_clip(5), get_clip(5)
    assert (a.scene, a.object_motions, a.text_zh, a.text_en) == (b.scene, b.object_motions, b.text_zh, b.text_en)
    held_out = StickerWorld(size_px=64, stages=WORLD.stages, split="held_out").get_captioned_clip(
        3, 5, num_frames=8, fps=8.0
    )
    assert held_out.scene != a.scene


def test_captions_name_the_motions_in_both_languages():
    for position in range(40):
        clip = get_clip(position)
        for each in clip.object_motions:
            if each is not None:
                motion = MOTIONS[each.motion]
                assert any(verb in clip.text_en for verb in motion.verbs_en)
                assert any(verb in clip.text_zh for verb in motion.verbs_zh)


def test_counted_objects_move_together_if_captioned_and_one_by_one_if_controlled():
    world = StickerWorld(size_px=32, stages=[CurriculumStage(scene_weights={"count": 1.0}, grid_px=(16,))])
    clips = [world.get_captioned_clip(0, position, num_frames=4, fps=FPS) for position in range(30)]
    assert all(len(set(clip.object_motions)) == 1 for clip in clips)
    controlled = [world.get_controlled_clip(0, position, num_frames=4, fps=FPS) for position in range(30)]
    assert all(any(each is not None for each in clip.object_motions) for clip in controlled)
    assert any(None in clip.object_motions for clip in controlled)
    assert any(len(set(clip.object_motions) - {None}) > 1 for clip in controlled)
