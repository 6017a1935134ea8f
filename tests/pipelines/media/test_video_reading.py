"""Videos are decoded from files and folders, and other files are refused by name."""

import numpy as np
import pytest
from PIL import Image

from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import is_video_path, read_video, save_video

RECORD = GenerationMetadata(prompt="a", seed=0, settings={}, model="sticker", version="0")


@pytest.fixture
def frames():
    """A white square that moves over a green background."""
    frames = np.full((6, 32, 48, 3), (40, 160, 60), np.uint8)
    for index, frame in enumerate(frames):
        frame[8:20, 4 + 5 * index : 16 + 5 * index] = 255
    return frames


@pytest.mark.parametrize("extension", [".mp4", ".webp", ".gif"])
def test_frames_and_their_rate_come_back(tmp_path, frames, extension):
    (path,) = save_video(frames, tmp_path / f"a{extension}", RECORD, fps=8, producer=None)
    video = read_video(path)
    assert video.frames.shape == frames.shape
    assert np.abs(video.frames.astype(int) - frames).mean() < 4
    assert video.fps == pytest.approx(8, abs=0.4)  # a GIF counts in hundredths of a second


def test_a_folder_of_numbered_images_is_a_video(tmp_path, frames):
    save_video(frames, tmp_path / "a.png", RECORD, fps=8, producer=None)
    assert is_video_path(tmp_path)
    assert np.array_equal(read_video(tmp_path).frames, frames)


def test_no_more_than_max_frames_are_read(tmp_path, frames):
    (path,) = save_video(frames, tmp_path / "a.mp4", RECORD, fps=8, producer=None)
    assert len(read_video(path, max_frames=2).frames) == 2


@pytest.mark.parametrize("name", ["a.mp4", "a.webp", "a.gif"])
def test_damaged_and_missing_files_are_named(tmp_path, frames, name):
    with pytest.raises(ValueError, match=name):
        read_video(tmp_path / name)
    (path,) = save_video(frames, tmp_path / name, RECORD, fps=8, producer=None)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=name):
        read_video(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=name):
        read_video(path)


def test_frames_of_several_sizes_are_refused(tmp_path):
    for number, size in enumerate([(8, 8), (8, 9)]):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    with pytest.raises(ValueError, match="several sizes"):
        read_video(tmp_path)
    assert not is_video_path(tmp_path / "nothing")
