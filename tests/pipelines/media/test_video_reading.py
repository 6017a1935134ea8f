"""Videos are decoded as a stream of frames at their own times, upright and over white; others are refused by name."""

import io
import struct
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import save_video
from dianjing.pipelines.media.video_reading import (
    inspect_video,
    is_video,
    is_video_path,
    iterate_frames,
    read_video,
    resample_frames,
)

RECORD = GenerationMetadata(prompt="a", seed=0, settings={}, model="sticker", version="0")
HIDDEN, DISC = (255, 0, 255), (30, 60, 200)


@pytest.fixture
def frames():
    """A white square that moves over a green background."""
    frames = np.full((6, 32, 48, 3), (40, 160, 60), np.uint8)
    for index, frame in enumerate(frames):
        frame[8:20, 4 + 5 * index : 16 + 5 * index] = 255
    return frames


def write_video(path, frames, *, rate=8, codec="libx264", pixel_format="yuv420p", options=None, **stream_fields):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        for name, value in stream_fields.items():
            setattr(stream, name, value)
        for frame in frames:
            input_format = "rgba" if frame.shape[-1] == 4 else "rgb24"
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(frame, format=input_format).reformat(format=pixel_format))
            )
        container.mux(stream.encode())


def write_display_matrix(path, matrix):
    """Replace [[a, b], [c, d]] of the matrix in the track header of an MP4, as phones write it."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    at += 40 if data[at] == 0 else 52
    (a, b), (c, d) = matrix
    numbers = (a * 0x10000, b * 0x10000, 0, c * 0x10000, d * 0x10000, 0, 0, 0, 0x40000000)
    data[at : at + 36] = struct.pack(">9i", *numbers)
    path.write_bytes(data)


@pytest.mark.parametrize("extension", [".mp4", ".webp", ".gif"])
def test_frames_and_their_rate_come_back(tmp_path, frames, extension):
    (path,) = save_video(frames, tmp_path / f"a{extension}", RECORD, fps=8, producer=None)
    video = read_video(path)
    assert video.frames.shape == frames.shape
    assert np.abs(video.frames.astype(int) - frames).mean() < 4
    assert video.fps == pytest.approx(8, rel=0.01)
    assert video.times_s == pytest.approx(np.arange(6) / 8, abs=0.006)


def test_a_folder_of_numbered_images_is_a_video(tmp_path, frames):
    save_video(frames, tmp_path / "a.png", RECORD, fps=12, producer=None)
    assert is_video_path(tmp_path)
    video = read_video(tmp_path)
    assert np.array_equal(video.frames, frames)
    assert video.fps == pytest.approx(12)


def test_numbers_without_zeros_are_in_order(tmp_path):
    for number in (10, 9, 2, 1):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"frame{number}.png")
    assert read_video(tmp_path).frames[:, 0, 0, 0].tolist() == [1, 2, 9, 10]


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


def test_a_playlist_under_the_name_of_a_video_opens_no_other_file(tmp_path, frames):
    (secret,) = save_video(frames, tmp_path / "secret.mp4", RECORD, fps=8, producer=None)
    (tmp_path / "a.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
    with pytest.raises(DianjingError, match=r"a\.mp4"):
        read_video(tmp_path / "a.mp4")


# ---------------------------------------------------------------- transparency


def write_transparent(path):
    """Three frames of a disc that moves; transparent pixels hide magenta."""
    images = []
    for step in range(3):
        image = Image.new("RGBA", (32, 16), (*HIDDEN, 0))
        image.paste((*DISC, 255), (8 + 4 * step, 4, 16 + 4 * step, 12))
        images.append(image)
    options = {"lossless": True, "exact": True} if path.suffix == ".webp" else {"disposal": 2}
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, **options)
    return images


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_transparent_parts_of_animations_are_white(tmp_path, name):
    images = write_transparent(tmp_path / name)
    assert is_video(tmp_path / name, name=name)
    video = read_video(tmp_path / name)
    for frame, image in zip(video.frames, images, strict=True):
        is_opaque = np.asarray(image)[..., 3] > 0
        assert (frame[~is_opaque] == 255).all()
        assert np.abs(frame[is_opaque].astype(int) - DISC).max() < 4


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [("a.webm", "libvpx-vp9", "yuva420p"), ("a.mov", "qtrle", "argb"), ("a.mov", "png", "rgba")],
)
def test_transparent_parts_of_videos_are_white(tmp_path, name, codec, pixel_format):
    rgba = np.zeros((4, 32, 64, 4), np.uint8)
    rgba[..., :] = (*HIDDEN, 0)
    rgba[:, 8:24, 16:48] = (*DISC, 255)
    write_video(tmp_path / name, rgba, codec=codec, pixel_format=pixel_format)
    frames = read_video(tmp_path / name).frames.astype(int)
    assert np.abs(frames[:, :4] - 255).max() < 12
    assert np.abs(frames[:, 12:20, 22:42] - DISC).max() < 24


# ---------------------------------------------------------------- display matrix, pixel aspect

MATRICES = {  # of the pixels of a stored frame -> what is shown
    "upright": ([[1, 0], [0, 1]], lambda stored: stored),
    "quarter turn clockwise": ([[0, 1], [-1, 0]], lambda stored: np.rot90(stored, -1)),
    "half turn": ([[-1, 0], [0, -1]], lambda stored: np.rot90(stored, 2)),
    "quarter turn counterclockwise": ([[0, -1], [1, 0]], np.rot90),
    "mirrored": ([[-1, 0], [0, 1]], np.fliplr),
    "upside down": ([[1, 0], [0, -1]], np.flipud),
    "transposed": ([[0, 1], [1, 0]], lambda stored: stored.transpose(1, 0, 2)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_videos_follow_their_display_matrix(tmp_path, name):
    matrix, show = MATRICES[name]
    stored = np.full((2, 32, 48, 3), (40, 160, 60), np.uint8)
    stored[:, 2:14, 4:12] = (220, 30, 30)
    path = tmp_path / "a.mp4"
    write_video(path, stored)
    write_display_matrix(path, matrix)
    expected = show(stored[0])
    frame = read_video(path).frames[0]
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected).mean() < 6
    info = inspect_video(path, name="a.mp4")
    assert (info.height, info.width) == expected.shape[:2]


def test_pixels_that_are_not_square_become_square(tmp_path, frames):
    path = tmp_path / "a.mkv"
    write_video(path, frames, sample_aspect_ratio=2)
    assert read_video(path).frames.shape == (6, 32, 96, 3)


# ---------------------------------------------------------------- times


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_every_frame_has_its_own_time(tmp_path, name):
    images = [Image.new("RGB", (16, 16), (80 * index, 100, 255 - 80 * index)) for index in range(3)]
    options = {"lossless": True} if name.endswith("webp") else {}
    images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=[1000, 100, 100], **options)
    assert read_video(tmp_path / name).times_s == pytest.approx((0, 1, 1.1))
    for fps, counts in ((10, [10, 1, 1]), (20, [20, 2, 2]), (5, [5, 1])):
        resampled = resample_frames(iterate_frames(tmp_path / name, name=name), fps=fps)
        levels = [int(frame.get_pixels()[0, 0, 0]) for frame in resampled]
        assert levels == [level for level, count in zip((0, 80, 160), counts, strict=False) for _ in range(count)]
    info = inspect_video(tmp_path / name, name=name)
    assert [info.count_resampled_frames(fps) for fps in (10, 20, 5)] == [12, 24, 6]
    assert info.fps == pytest.approx(10)


def test_frames_without_a_duration_last_as_long_as_in_browsers(tmp_path):
    images = [Image.new("RGB", (16, 16), (80 * index, 0, 0)) for index in range(3)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=0)
    assert read_video(tmp_path / "a.gif").times_s == pytest.approx((0, 0.1, 0.2))


def encode_gray(index):
    return np.full((16, 16, 3), 8 * index, np.uint8)


@pytest.mark.parametrize("rate", [24, 25, 30, 60])
@pytest.mark.parametrize("fps", [8, 12, 24])
def test_resampled_frames_are_those_of_their_time(tmp_path, rate, fps):
    stored = np.stack([encode_gray(index) for index in range(30)])
    write_video(tmp_path / "a.webm", stored, rate=rate, codec="libvpx-vp9", options={"lossless": "1"})  # times in ms
    frames = list(resample_frames(iterate_frames(tmp_path / "a.webm", name="a.webm"), fps=fps))
    numbers = [round(int(frame.get_pixels()[8, 8, 1]) / 8) for frame in frames]
    for index, number in enumerate(numbers):  # the frame of that time, or one that begins at most 5 ms later
        assert number / rate - 0.0051 <= index / fps < (number + 1) / rate + 1e-6
    assert abs(len(numbers) / fps - 30 / rate) <= 1 / fps
    assert inspect_video(tmp_path / "a.webm", name="a.webm").count_resampled_frames(fps) == len(numbers)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.gif"])
def test_reading_from_a_later_time_gives_the_same_frames(tmp_path, name):
    stored = np.stack([encode_gray(index % 32) for index in range(96)])
    if name == "a.gif":
        images = [Image.fromarray(frame) for frame in stored]
        images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=40)
    else:
        write_video(tmp_path / name, stored, rate=25, options={"g": "10", "bf": "2", "crf": "1"})
    all_frames = [f.get_pixels() for f in resample_frames(iterate_frames(tmp_path / name, name=name), fps=8)]
    for start in (1, 7, 16, 23):
        later = iterate_frames(tmp_path / name, name=name, start_s=start / 8)
        part = [f.get_pixels() for f in resample_frames(later, fps=8, start=start, stop=start + 6)]
        np.testing.assert_allclose(np.stack(part).astype(int), np.stack(all_frames[start : start + 6]), atol=1)


# ---------------------------------------------------------------- memory

MEASURE = """
import resource, sys
from pathlib import Path
from dianjing.pipelines.media.video_reading import inspect_video, iterate_frames, resample_frames
path = Path(sys.argv[1])
inspect_video(Path(sys.argv[2]), name="small.mp4")  # loads the libraries
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
info = inspect_video(path, name=path.name)
frames = resample_frames(iterate_frames(path, name=path.name), fps=8)
count = sum(frame.get_pixels().shape == (720, 1280, 3) for frame in frames)
print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_eight_seconds_of_720p_take_at_most_300_mib(tmp_path, frames):
    write_video(tmp_path / "small.mp4", frames)
    stored = (np.random.default_rng(index).integers(0, 255, (720, 1280, 3), np.uint8) for index in range(8))
    pictures = [np.kron(frame[:72, :128], np.ones((10, 10, 1), np.uint8)) for frame in stored]
    with av.open(str(tmp_path / "phone.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        for index in range(240):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pictures[index // 30], format="rgb24")))
        container.mux(stream.encode())
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "phone.mp4"), str(tmp_path / "small.mp4")]
    count, mib = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert count == 64
    assert mib <= 300


def test_bytes_are_read_as_files_are(tmp_path, frames):
    (path,) = save_video(frames, tmp_path / "a.mp4", RECORD, fps=8, producer=None)
    from_bytes = [frame.get_pixels() for frame in iterate_frames(io.BytesIO(path.read_bytes()), name="a.mp4")]
    np.testing.assert_array_equal(np.stack(from_bytes), read_video(path).frames)
