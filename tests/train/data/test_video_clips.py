"""Videos of data sets: used whole as several clips, upright with their masks, and wrong masks found before training."""

import av
import numpy as np
import pytest
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.train.config.data import DatasetConfig
from dianjing.train.data.buckets import make_bucket_shapes
from dianjing.train.data.fitting import fit_motion_mask
from dianjing.train.data.index import build_index
from dianjing.train.data.samples import LocalFile, SampleRecord
from dianjing.train.data.video_clips import choose_clip_starts, iterate_clip
from tests.pipelines.media.test_video_reading import write_display_matrix, write_video

RED, GREEN = (220, 30, 30), (90, 150, 60)


def write_clip(folder, *, num_frames=16, width=48, height=32, caption="a red square", motion=None, mask=None):
    """A video at 8 frames per second whose red square moves to the right."""
    frames = np.full((num_frames, height, width, 3), GREEN, np.uint8)
    for index, frame in enumerate(frames):
        left = 2 + index * (width - 16) // num_frames
        frame[4:16, left : left + 12] = RED
    write_video(folder / "film.mp4", frames)
    if caption:
        (folder / "film.txt").write_text(caption)
    if motion:
        (folder / "film.motion.en.txt").write_text(motion)
        Image.fromarray(mask).save(folder / "film.mask.png")
    return frames


def make_mask(width, height, *, left=2, top=4, side=12):
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + side, left : left + side] = 255
    return mask


def index_folder(folder, *, clip_lengths=(4, 8), size_px=32, max_aspect_ratio=2.0, fps=8.0):
    shapes = make_bucket_shapes(size_px, multiple_px=16, max_aspect_ratio=max_aspect_ratio)
    limits = {"min_side_px": 1, "max_rejected_fraction": 1.0, "clip_lengths": clip_lengths, "fps": fps}
    return build_index([DatasetConfig(path=folder)], lambda _: shapes, **limits)


@pytest.mark.parametrize("clip_length", [2, 5, 16])
@pytest.mark.parametrize("num_frames", [16, 17, 31, 32, 33, 100])
def test_clips_cover_every_frame_of_a_video(num_frames, clip_length):
    starts = choose_clip_starts(num_frames, clip_length)
    covered = {start + offset for start in starts for offset in range(clip_length)}
    assert covered == set(range(num_frames))
    assert len(starts) == -(-num_frames // clip_length)
    assert starts == sorted(set(starts))


def test_all_of_a_video_is_used_as_several_clips(tmp_path):
    frames = write_clip(tmp_path, num_frames=20)
    records = index_folder(tmp_path).list_records()
    assert [record.start_frame for record in records] == [0, 6, 12]
    for record in records:
        clip = np.stack([np.asarray(image) for image in iterate_clip(record, fps=8, num_frames=8)]).astype(int)
        assert np.abs(clip - frames[record.start_frame :][:8]).mean() < 3


def test_a_motion_label_belongs_to_the_first_clip(tmp_path):
    write_clip(tmp_path, motion="move right", mask=make_mask(48, 32))
    records = index_folder(tmp_path).list_records()
    assert [(record.start_frame, record.motion_label is not None) for record in records] == [(0, True), (8, False)]


def test_without_captions_only_the_first_clip_is_used_and_that_is_reported(tmp_path):
    write_clip(tmp_path, caption="", motion="move right", mask=make_mask(48, 32))
    index = index_folder(tmp_path)
    assert [record.start_frame for record in index.list_records()] == [0]
    (reason,) = index.cropped.values()
    assert "the first 8 of 16 frames" in reason


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (make_mask(40, 32), "the mask of film.mp4 has 40 x 32 px, but its image has 48 x 32 px"),
        (np.zeros((32, 48), np.uint8), "the mask of film.mp4 is empty"),
        (make_mask(48, 32, left=0, top=30, side=2), "nothing of the mask of film.mp4 is left"),
    ],
)
def test_a_wrong_mask_is_rejected_by_name_before_anything_is_encoded(tmp_path, mask, message):
    write_clip(tmp_path, motion="move right", mask=mask)
    with pytest.raises(DianjingError, match=message):
        index_folder(tmp_path, size_px=16, max_aspect_ratio=8.0 if "nothing" not in message else 1.0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_motion_masks_are_read_in_every_color_type(tmp_path, mode):
    levels = Image.fromarray(make_mask(48, 32))
    mask = Image.fromarray(np.asarray(levels).astype(np.uint16) * 257) if mode == "I;16" else levels.convert(mode)
    write_clip(tmp_path, motion="move right", mask=make_mask(48, 32))
    mask.save(tmp_path / "film.mask.png")
    record = index_folder(tmp_path).list_records()[0]
    np.testing.assert_array_equal(fit_motion_mask(record, (48, 32), height=32, width=48), np.asarray(levels) > 0)


def test_a_portrait_video_of_a_phone_is_upright_and_its_mask_fits(tmp_path):
    write_clip(tmp_path, motion="move down", mask=make_mask(32, 48, left=16, top=2))
    write_display_matrix(tmp_path / "film.mp4", [[0, 1], [-1, 0]])
    record = index_folder(tmp_path).list_records()[0]
    first = np.asarray(next(iterate_clip(record, fps=8, num_frames=8))).astype(int)
    assert first.shape == (48, 32, 3)
    mask = fit_motion_mask(record, (32, 48), height=48, width=32)
    assert np.abs(first[mask] - RED).mean() < 12
    assert np.abs(first[~mask] - GREEN).mean() < 12


def test_an_animation_with_frames_of_unequal_length_is_resampled(tmp_path):
    images = [Image.new("RGB", (32, 32), (80 * index, 100, 200)) for index in range(3)]
    options = {"save_all": True, "append_images": images[1:], "duration": [1000, 100, 100]}
    images[0].save(tmp_path / "a.webp", lossless=True, **options)
    (tmp_path / "a.txt").write_text("a colour that changes")
    (record,) = index_folder(tmp_path, clip_lengths=[12], fps=10).list_records()
    clip = [int(np.asarray(image)[0, 0, 0]) for image in iterate_clip(record, fps=10, num_frames=12)]
    assert clip == [0] * 10 + [80, 160]


def test_an_animation_is_read_as_one_whatever_its_name(tmp_path):
    images = [Image.new("RGB", (32, 32), (80 * index, 100, 200)) for index in range(3)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=125)
    source = LocalFile(tmp_path / "a.gif")
    record = SampleRecord(name="a.gif (mirrored)", source=source, text_zh=None, text_en="a", is_flipped=True)
    assert len(list(iterate_clip(record, fps=8, num_frames=3))) == 3


def test_a_video_that_has_become_shorter_is_named(tmp_path):
    write_clip(tmp_path, num_frames=16)
    record = index_folder(tmp_path).list_records()[1]
    write_clip(tmp_path, num_frames=10)
    with pytest.raises(DianjingError, match=r"film\.mp4"):
        list(iterate_clip(record, fps=8, num_frames=8))


def test_a_sound_file_under_the_name_of_a_video_is_named(tmp_path):
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 44100
        container.mux(stream.encode(samples))
        container.mux(stream.encode())
    (tmp_path / "film.txt").write_text("a song")
    with pytest.raises(DianjingError, match=r"film\.mp4 contains no frame"):
        index_folder(tmp_path)
