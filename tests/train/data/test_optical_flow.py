"""What optical flow says of moving stickers is near their exact truth."""

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
TRAVELS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@pytest.fixture(scope="module")
def clips():
    """Clips in which something travels."""
    world = StickerWorld(
        size_px=128, stages=[CurriculumStage(scene_weights={"single": 1.0}, grid_px=(16,), sized_share=0.0)]
    )
    drawn = (world.get_controlled_clip(0, position, num_frames=8, fps=8) for position in range(400))
    return [clip for clip in drawn if MOTIONS[clip.object_motions[0].motion].name in TRAVELS][:24]


def _flows(clips):
    return [optical_flow.compute_optical_flow(clip.frames) for clip in clips]


def test_flow_points_where_the_object_goes(clips):
    for clip, flow in zip(clips, _flows(clips), strict=True):
        mean = flow[0][clip.masks[0, 0]].mean(axis=0)
        way = TRAVELS[MOTIONS[clip.object_motions[0].motion].name]
        assert mean @ way > 0.8 * np.linalg.norm(mean)


def test_the_mask_covers_the_object_on_its_way_and_little_else(clips):
    covered, beside = [], []
    for clip, flow in zip(clips, _flows(clips), strict=True):
        mask, way = optical_flow.compute_motion_mask(flow), clip.masks[:, 0].any(axis=0)
        covered.append(mask[way].mean())
        beside.append(mask[~way].mean())
    assert np.median(covered) > 0.9
    assert np.median(beside) < 0.4


def test_strength_is_that_of_the_truth(clips):
    asked = [clip.strengths[0] for clip in clips]
    seen = [
        optical_flow.compute_motion_strength(flow, clip.masks[0, 0], fps=clip.fps)
        for clip, flow in zip(clips, _flows(clips), strict=True)
    ]
    assert np.corrcoef(asked, seen)[0, 1] > 0.8
    assert optical_flow.compute_motion_strength(np.ones((3, 8, 8, 2)), np.zeros((8, 8), bool), fps=8) == 0


def test_the_command_writes_a_line_and_a_mask_for_every_readable_film(tmp_path, monkeypatch, capsys, clips):
    films, out = tmp_path / "films", tmp_path / "out"
    films.mkdir()
    save_video(clips[0].frames, films / "good.mp4", RECORD, fps=8, producer=None)
    (films / "bad.mp4").write_bytes(b"no film")
    monkeypatch.setattr("sys.argv", ["footage", str(films), "--out", str(out)])
    optical_flow._main()
    said = capsys.readouterr()
    assert "1 of 2 films" in said.out
    assert "bad.mp4" in said.out + said.err
    (line,) = (out / "clips.jsonl").read_text().splitlines()
    columns = json.loads(line)
    assert columns["file"] == "good.mp4"
    assert columns["num_frames"] == 8
    assert np.asarray(Image.open(out / columns["mask"])).shape == (128, 128)


def test_a_folder_without_films_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no film"):
        optical_flow.list_videos(tmp_path)
    with pytest.raises(ValueError, match="no folder"):
        optical_flow.list_videos(tmp_path / "nothing")
