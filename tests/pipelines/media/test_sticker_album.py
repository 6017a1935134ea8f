"""Albums against the bounds of the WeChat sticker platform, read by a checker of its own."""

import csv
import errno
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dianjing.errors import DianjingError
from dianjing.pipelines.media import sticker_album
from dianjing.pipelines.media.sticker_album import AlbumSticker, pack_gif, pack_png, write_album

COLOUR = (200, 40, 40)


def make_disc(*, num_frames=3, size_px=64, noise=False, seed=0):
    """A disc with a soft rim that moves to the right, uint8 (F, H, W, 4)."""
    rng = np.random.default_rng(seed)
    frames = []
    for index in range(num_frames):
        alpha = Image.new("L", (size_px * 4,) * 2, 0)
        left = size_px * (0.6 + 0.1 * index)
        ImageDraw.Draw(alpha).ellipse([left, size_px, left + size_px * 2, size_px * 3], fill=255)
        alpha = np.asarray(alpha.resize((size_px,) * 2, Image.Resampling.BOX))
        rgb = rng.integers(0, 256, (size_px, size_px, 3)) if noise else np.full((size_px, size_px, 3), COLOUR)
        frames.append(np.concatenate([rgb, alpha[..., None]], axis=2).astype(np.uint8))
    return np.stack(frames)


def find_violations(folder):
    """List what the platform would refuse: counts, names, formats, sizes in px and bytes, meanings."""
    violations = []
    gifs = sorted(folder.glob("*.gif"))
    if len(gifs) not in (8, 16, 24) or [path.stem for path in gifs] != [f"{n:02d}" for n in range(1, len(gifs) + 1)]:
        violations.append("stickers")
    bounds = {path.name: ("GIF", (240, 240), 500_000) for path in gifs}
    bounds |= {path.with_suffix(".png").name: ("PNG", (120, 120), 200_000) for path in gifs}
    bounds |= {
        "cover.png": ("PNG", (240, 240), 500_000),
        "icon.png": ("PNG", (50, 50), 100_000),
        "banner.png": ("PNG", (750, 400), 500_000),
    }
    for name, (image_format, size, max_bytes) in bounds.items():
        path = folder / name
        with Image.open(path) as image:
            if (image.format, image.size) != (image_format, size) or path.stat().st_size > max_bytes:
                violations.append(name)
            if image_format == "GIF" and (image.n_frames < 2 or image.info.get("loop") != 0):
                violations.append(f"{name}: not animated")
    with open(folder / "meanings.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    if [row["file"] for row in rows] != [path.name for path in gifs] or not all(row["meaning"] for row in rows):
        violations.append("meanings.csv")
    if extra := {path.name for path in folder.iterdir()} - {*bounds, "meanings.csv"}:
        violations.append(f"other files: {extra}")
    return violations


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    folder = tmp_path_factory.mktemp("albums") / "album"
    stickers = [AlbumSticker(frames=make_disc(seed=n), fps=8.0, meaning=f"开心{n}") for n in range(8)]
    write_album(stickers, folder)
    return folder


def test_an_album_is_within_every_bound_of_the_platform(album):
    assert find_violations(album) == []


def test_the_checker_finds_what_is_wrong(album, tmp_path):
    for path in album.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    Image.new("RGB", (64, 64)).save(tmp_path / "icon.png")
    (tmp_path / "08.gif").unlink()
    (tmp_path / "notes.txt").write_text("")
    violations = find_violations(tmp_path)
    assert {"stickers", "icon.png", "meanings.csv"} <= set(violations)
    assert any("notes.txt" in violation for violation in violations)


@pytest.mark.parametrize("count", [0, 7, 9, 25])
def test_other_numbers_of_stickers_are_refused_and_nothing_is_written(tmp_path, count):
    stickers = [AlbumSticker(frames=make_disc(), fps=8.0, meaning="好")] * count
    with pytest.raises(DianjingError) as caught:
        write_album(stickers, tmp_path / "album")
    assert caught.value.message_id == "album_count_unsupported"
    assert not (tmp_path / "album").exists()


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(DianjingError) as caught:
        write_album([AlbumSticker(frames=make_disc(), fps=8.0, meaning="好")] * 8, tmp_path)
    assert caught.value.message_id == "album_folder_not_empty"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_sticker_over_its_bound_is_packed_smaller():
    frames = make_disc(num_frames=24, size_px=240, noise=True)
    content = pack_gif(frames, fps=24.0, name="01.gif")
    assert len(content) <= 500_000
    with Image.open(io.BytesIO(content)) as image:
        durations = []
        for index in range(image.n_frames):
            image.seek(index)
            durations.append(image.info["duration"])
    assert len(durations) >= 2
    assert sum(durations) == pytest.approx(1000, rel=0.1)  # it lasts as long with fewer frames


def test_what_fits_no_bound_is_refused(monkeypatch):
    monkeypatch.setattr(sticker_album, "MAX_STICKER_BYTES", 100)
    with pytest.raises(DianjingError) as caught:
        pack_gif(make_disc(), fps=8.0, name="03.gif")
    assert caught.value.message_id == "album_file_too_large"
    with pytest.raises(DianjingError):
        pack_png(Image.fromarray(make_disc()[0]), max_bytes=50, name="icon.png")


def test_the_rim_of_a_gif_is_matted_on_white_and_the_outside_is_transparent():
    content = pack_gif(make_disc(size_px=240), fps=8.0, name="01.gif")
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("RGBA")).astype(int)
    assert set(np.unique(pixels[..., 3])) == {0, 255}
    assert pixels[0, 0, 3] == 0
    # from the disc to white there is nothing darker or of another hue than a mixture of both
    visible = pixels[pixels[..., 3] == 255][:, :3]
    mixture = np.array(COLOUR) + (255 - np.array(COLOUR)) * ((visible[:, 1:2] - COLOUR[1]) / (255 - COLOUR[1]))
    assert np.abs(visible - mixture).max() <= 8


def test_a_thumbnail_on_white_and_on_black_has_no_fringe():
    """Laid on either, it differs from the disc with its exact coverage by 8 levels at most."""
    frame = make_disc(size_px=240)[0]
    image = Image.open(io.BytesIO(pack_png(Image.fromarray(frame), max_bytes=200_000, name="01.png"))).convert("RGBA")
    coverage = frame[..., 3:] / 255
    for ground in (0, 255):
        laid = Image.alpha_composite(Image.new("RGBA", image.size, (ground,) * 3 + (255,)), image)
        truth = coverage * np.array(COLOUR) + (1 - coverage) * ground
        assert np.abs(np.asarray(laid)[..., :3] - truth).max() <= 8


def make_album_stickers():
    return [AlbumSticker(frames=make_disc(seed=seed), fps=8, meaning="disc") for seed in range(8)]


@pytest.mark.parametrize("exists", [False, True])
def test_a_full_disk_leaves_no_part_of_an_album(tmp_path, monkeypatch, exists):
    if exists:
        (tmp_path / "album").mkdir()
    written = []

    def write(path, content):
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(DianjingError, match="disk is full"):
        write_album(make_album_stickers(), tmp_path / "album")
    assert len(written) == 5
    assert [path.name for path in tmp_path.rglob("*")] == (["album"] if exists else [])


def test_an_album_is_written_into_an_empty_folder_and_into_new_ones_below_each_other(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "new" / "album"):
        assert all(path.is_file() for path in write_album(make_album_stickers(), folder))
        assert find_violations(folder) == []


@pytest.mark.parametrize("folder", ["/proc/album", "x" * 300])
def test_an_album_where_no_folder_can_be_made_is_refused_at_once(folder):
    with pytest.raises(DianjingError, match="cannot be written"):
        sticker_album.check_album(8, Path(folder))


def test_an_album_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DianjingError, match="file"):
        sticker_album.check_album(8, tmp_path / "file" / "album")


def test_the_icon_and_the_banner_show_an_object_large_though_its_sticker_has_room_to_move(tmp_path):
    frames = np.zeros((2, 240, 240, 4), np.uint8)
    frames[:, 90:150, 90:150] = (200, 40, 40, 255)  # a quarter of the side
    write_album([AlbumSticker(frames=frames, fps=8.0, meaning="方块")] * 8, tmp_path / "album")
    with Image.open(tmp_path / "album" / "icon.png") as icon:
        assert (np.asarray(icon.convert("RGBA"))[..., 3] > 127).mean() > 0.6
    with Image.open(tmp_path / "album" / "banner.png") as banner:
        pixels = np.asarray(banner.convert("RGB")).astype(int)
    assert (np.abs(pixels - (200, 40, 40)).max(axis=-1) < 40).mean() > 0.5
