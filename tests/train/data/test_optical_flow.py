"""Motion measured by optical flow agrees with the exact motion of stickers."""

import json

import numpy as np
import pytest
from PIL import Image

from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import save_video
from dianjing.train.data import optical_flow
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.motions import MOTIONS

RECORD = GenerationMetadata(prompt="a", seed=0, settings={}, model="sticker", version="0")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@pytest.fixture(scope="module")
def clips():
    """Clips of objects that move along an axis."""
    world = StickerWorld(
        size_px=128, stages=[CurriculumStage(scene_weights={"single": 1.0}, grid_px=(16,), sized_share=0.0)]
    )
    candidates = (world.get_controlled_clip(0, position, num_frames=8, fps=8) for position in range(400))
    return [clip for clip in candidates if MOTIONS[clip.object_motions[0].motion].name in DIRECTIONS][:24]


def _flows(clips):
    return [optical_flow.compute_optical_flow(clip.frames) for clip in clips]


def test_flow_points_where_the_object_goes(clips):
    for clip, flow in zip(clips, _flows(clips), strict=True):
        mean = flow[0][clip.masks[0, 0]].mean(axis=0)
        path = DIRECTIONS[MOTIONS[clip.object_motions[0].motion].name]
        assert mean @ path > 0.8 * np.linalg.norm(mean)


def test_the_mask_covers_the_path_of_the_object_and_little_else(clips):
    covered, outside = [], []
    for clip, flow in zip(clips, _flows(clips), strict=True):
        mask, path = optical_flow.compute_motion_mask(flow), clip.masks[:, 0].any(axis=0)
        covered.append(mask[path].mean())
        outside.append(mask[~path].mean())
    assert np.median(covered) > 0.9
    assert np.median(outside) < 0.4


def test_measured_strength_follows_the_exact_one(clips):
    expected = [clip.strengths[0] for clip in clips]
    measured = [
        optical_flow.compute_motion_strength(flow, clip.masks[0, 0], fps=clip.fps)
        for clip, flow in zip(clips, _flows(clips), strict=True)
    ]
    assert np.corrcoef(expected, measured)[0, 1] > 0.8
    assert optical_flow.compute_motion_strength(np.ones((3, 8, 8, 2)), np.zeros((8, 8), bool), fps=8) == 0


def test_the_command_writes_a_line_and_a_mask_for_every_readable_video(tmp_path, monkeypatch, capsys, clips):
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    save_video(clips[0].frames, videos / "good.mp4", RECORD, fps=8, producer=None)
    (videos / "bad.mp4").write_bytes(b"not a video")
    monkeypatch.setattr("sys.argv", ["optical_flow", str(videos), "--out", str(out)])
    optical_flow._main()
    output = capsys.readouterr()
    assert "1 of 2 videos" in output.out
    assert "bad.mp4" in output.out + output.err
    (line,) = (out / "clips.jsonl").read_text().splitlines()
    columns = json.loads(line)
    assert columns["file"] == "good.mp4"
    assert columns["num_frames"] == 8
    assert np.asarray(Image.open(out / columns["mask"])).shape == (128, 128)


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no video"):
        optical_flow.list_videos(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        optical_flow.list_videos(tmp_path / "nothing")
