"""Video files: playable, written atomically, with generation metadata and an AIGC label."""

import av
import numpy as np
import pytest
from PIL import Image

from dianjing.pipelines.media.image import read_image_metadata
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import (
    MAX_ANIMATION_FPS,
    check_fps,
    check_video_output_path,
    read_video_metadata,
    save_video,
)
from dianjing.pipelines.media.video_reading import inspect_video

RECORD = GenerationMetadata(prompt='小猫跳 <&> "🐱"', seed=7, settings={"fps": 8.0}, model="sticker", version="0.1.0")
FPS = 8.0


def make_frames(num_frames=6, *, height=48, width=64):
    """Frames of a white square that moves over a green background."""
    frames = np.full((num_frames, height, width, 3), (40, 160, 60), np.uint8)
    for index, frame in enumerate(frames):
        frame[10:26, 4 + 6 * index : 20 + 6 * index] = 255
    return frames


def decode(path):
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with Image.open(path) as image:
        return np.stack([np.asarray((image.seek(i), image.convert("RGB"))[1]) for i in range(image.n_frames)])


@pytest.mark.parametrize("extension", [".mp4", ".webp", ".apng", ".gif"])
def test_frames_come_back_nearly_as_they_were(tmp_path, extension):
    (path,) = save_video(iter(make_frames()), tmp_path / f"video{extension}", RECORD, fps=FPS, producer="我们")
    frames = decode(path)
    assert frames.shape == make_frames().shape
    assert np.abs(frames.astype(int) - make_frames()).mean() < 4
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("extension", [".mp4", ".webp", ".apng", ".gif"])
@pytest.mark.parametrize("producer", [None, "我们 <&>"])
def test_settings_and_label_come_back_as_they_were(tmp_path, extension, producer):
    (path,) = save_video(make_frames(), tmp_path / f"video{extension}", RECORD, fps=FPS, producer=producer)
    record, label = read_video_metadata(path)
    assert record == RECORD
    assert (label and label["ContentProducer"]) == producer


def test_mp4_is_h264_at_its_frame_rate(tmp_path):
    (path,) = save_video(make_frames(), tmp_path / "video.mp4", RECORD, fps=FPS, producer=None)
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == FPS
        assert container.streams.video[0].codec_context.name == "h264"


RATES = (1, 2, 5, 7.3, 8, 10, 12, 15, 23.976, 24, 25, 29.97, 30, 33, 40, 48, 50, 55, 59.94, 60)


@pytest.mark.parametrize("extension", [".mp4", ".webp", ".gif", ".png"])
@pytest.mark.parametrize("num_frames", [2, 9, 31])
def test_videos_of_every_rate_last_as_long_as_their_frames(tmp_path, extension, num_frames):
    frames = make_frames(num_frames, height=16, width=16 + 6 * num_frames)
    for fps in RATES:
        folder = tmp_path / f"{fps}"
        folder.mkdir()
        paths = save_video(frames, folder / f"video{extension}", RECORD, fps=fps, producer=None)
        path = folder if extension == ".png" else paths[0]
        info = inspect_video(path, name=path.name)
        assert info.duration_s == pytest.approx(num_frames / fps, abs=1 / fps)
        share = min(1.0, MAX_ANIMATION_FPS.get(extension, fps) / fps)  # of the frames that the format can show
        assert info.num_frames == 1 + int((num_frames - 1) * share + 1e-6)


@pytest.mark.parametrize("extension", [".gif", ".webp"])
@pytest.mark.parametrize("fps", [60, 90, 120])
def test_frames_of_animations_are_never_so_short_that_browsers_slow_them_down(tmp_path, extension, fps):
    frames = make_frames(24, height=16, width=160)
    (path,) = save_video(frames, tmp_path / f"video{extension}", RECORD, fps=fps, producer=None)
    with Image.open(path) as image:
        durations = [(image.seek(i), image.load(), image.info["duration"])[2] for i in range(image.n_frames)]
    assert min(durations) > 10
    assert sum(durations) == pytest.approx(1000 * 24 / fps, abs=20)


def test_a_video_in_which_nothing_moves_keeps_its_length(tmp_path):
    still = np.repeat(make_frames(1), 16, axis=0)
    for extension in (".mp4", ".gif"):  # libwebp writes it as an image
        (path,) = save_video(still, tmp_path / f"video{extension}", RECORD, fps=FPS, producer=None)
        assert inspect_video(path, name=path.name).duration_s == pytest.approx(2, abs=0.125)


def test_an_odd_size_is_padded_for_h264(tmp_path):
    (path,) = save_video(make_frames(height=47, width=63), tmp_path / "video.mp4", RECORD, fps=FPS, producer=None)
    assert decode(path).shape[1:3] == (48, 64)


@pytest.mark.parametrize("edge_alpha", [120, 255])
@pytest.mark.parametrize("extension", [".webp", ".apng", ".gif", ".mp4"])
def test_transparency_is_written_where_a_format_has_it_and_else_laid_over_white(tmp_path, extension, edge_alpha):
    frames = np.zeros((3, 32, 48, 4), np.uint8)
    for index, frame in enumerate(frames):
        frame[8:24, 8 + 8 * index : 24 + 8 * index] = (220, 30, 30, edge_alpha)
        frame[10:22, 10 + 8 * index : 22 + 8 * index] = (220, 30, 30, 255)
    (path,) = save_video(frames, tmp_path / f"video{extension}", RECORD, fps=FPS, producer=None)
    if extension == ".mp4":
        assert decode(path)[:, :6].min() > 240
        return
    with Image.open(path) as image:
        for index in range(3):
            image.seek(index)
            decoded = np.asarray(image.convert("RGBA"))
            expected = frames[index, ..., 3]
            if extension == ".gif":  # one bit
                expected = np.where(expected >= 128, 255, 0)
            np.testing.assert_array_equal(decoded[..., 3], expected)


def test_png_writes_every_frame_exactly(tmp_path):
    paths = save_video(make_frames(), tmp_path / "video.png", RECORD, fps=FPS, producer=None)
    assert [path.name for path in paths] == [f"video-{i:04d}.png" for i in range(1, 7)]
    for path, frame in zip(paths, make_frames(), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(path)), frame)
    assert read_image_metadata(paths[3]) == RECORD


@pytest.mark.parametrize("extension", [".mp4", ".webp", ".apng", ".gif"])
def test_a_failed_write_leaves_the_old_file(tmp_path, extension):
    def fail_after_three_frames():
        yield from make_frames()[:3]
        raise RuntimeError("out of power")

    path = tmp_path / f"video{extension}"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="out of power"):
        save_video(fail_after_three_frames(), path, RECORD, fps=FPS, producer=None)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_unusable_path_frame_rate_or_video_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"does not end in .mp4, .webp, .apng, .gif, .png"):
        check_video_output_path(tmp_path / "video.avi")
    with pytest.raises(ValueError, match="does not exist"):
        check_video_output_path(tmp_path / "none" / "video.mp4")
    with pytest.raises(ValueError, match="fps is 0"):
        check_fps(0)
    with pytest.raises(ValueError, match="fps is nan"):
        check_fps(float("nan"))
    with pytest.raises(ValueError, match="without frames"):
        save_video([], tmp_path / "video.mp4", RECORD, fps=FPS, producer=None)


def test_a_file_of_another_program_has_no_metadata(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "other.webp")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for name in ("other.webp", "broken.mp4", "none.gif"):
        with pytest.raises(ValueError, match=name):
            read_video_metadata(tmp_path / name)


def test_a_gif_of_frames_with_alpha_has_one_bit_of_it_and_rims_on_white(tmp_path):
    frames = np.zeros((2, 12, 16, 4), np.uint8)
    frames[:, 3:9, 3:9] = (200, 40, 40, 255)
    frames[0, 3:9, 9] = (200, 40, 40, 160)  # a rim that is mostly opaque, and one that is mostly transparent
    frames[0, 3:9, 2] = (200, 40, 40, 60)
    frames[1] = np.roll(frames[1], 4, axis=1)
    save_video(frames, tmp_path / "a.gif", RECORD, fps=10, producer=None)
    with Image.open(tmp_path / "a.gif") as made:
        first = np.asarray(made.convert("RGBA")).astype(int)
        made.seek(1)
        second = np.asarray(made.convert("RGBA"))
    assert set(np.unique(first[..., 3])) == {0, 255}
    np.testing.assert_array_equal(first[..., 3] > 0, frames[0, ..., 3] >= 128)
    np.testing.assert_array_equal(second[..., 3], frames[1, ..., 3])  # nothing is left of the first frame
    expected = 255 - (255 - np.array([200, 40, 40])) * 160 / 255
    assert np.abs(first[4, 9, :3] - expected).max() < 10
