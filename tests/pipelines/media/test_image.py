"""Image files: written atomically, with generation metadata and an AIGC label."""

import json
import os
import stat
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from dianjing.pipelines.media import atomic
from dianjing.pipelines.media.aigc_label import AIGC_NAMESPACE, XMP_KEY, make_image_label
from dianjing.pipelines.media.atomic import check_output_path
from dianjing.pipelines.media.image import read_image_metadata, save_image
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.validation import MAX_PROMPT_CHARS

RECORD = GenerationMetadata(
    prompt='草地上的一只小猫 <&> "🐱"\nنص',
    seed=2**64 - 1,
    settings={"num_inference_steps": 20, "negative_prompt": None},
    model="sticker",
    version="0.1.0",
)


@pytest.fixture
def image():
    image = Image.new("RGB", (32, 16), "green")
    ImageDraw.Draw(image).ellipse((4, 4, 12, 12), fill="white")
    return image


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cat.png"


def read_texts(path):
    with Image.open(path) as image:
        return image.text


@pytest.mark.parametrize("name", ["cat.png", "cat.jpg", "cat.jpeg", "cat.JPG", "cat.webp", "cat"])
def test_settings_come_back_as_they_were(image, tmp_path, name):
    save_image(image, tmp_path / name, RECORD, label=None)
    assert read_image_metadata(tmp_path / name) == RECORD


@pytest.mark.parametrize("name", ["cat.png", "cat.jpg", "cat.webp"])
def test_the_longest_prompts_fit_into_every_format(image, tmp_path, name):
    """Characters of four bytes each, in the prompt and in the settings; a JPEG has room for 64 KB of them."""
    longest = "🐱" * MAX_PROMPT_CHARS
    record = replace(RECORD, prompt=longest, settings={"negative_prompt": longest})
    save_image(image, tmp_path / name, record, label=make_image_label(image, record, producer="某公司"))
    assert read_image_metadata(tmp_path / name) == record


@pytest.mark.parametrize("name", ["cat.jpg", "cat.webp"])
def test_a_lossy_file_looks_as_before_and_holds_the_label(image, tmp_path, name):
    label = make_image_label(image, RECORD, producer="<某 & Co>")
    sizes = []
    for quality in (0, None, 100):
        save_image(image, tmp_path / name, RECORD, label=label, quality=quality)
        sizes.append((tmp_path / name).stat().st_size)
        with Image.open(tmp_path / name) as saved:
            node = ET.fromstring(saved.info["xmp"]).find(f".//{{{AIGC_NAMESPACE}}}AIGC")
            assert json.loads(node.text) == label
            assert saved.format == {"cat.jpg": "JPEG", "cat.webp": "WEBP"}[name]
            if quality is None:
                difference = np.abs(np.asarray(saved.convert("RGB"), float) - np.asarray(image, float))
    assert difference.mean() < 4
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("name", ["other.png", "other.jpg", "other.webp"])
def test_files_of_other_programs_hold_no_settings(image, tmp_path, name):
    exif = Image.Exif()
    exif[0x010E] = "a description"
    image.save(tmp_path / name, exif=exif)
    with pytest.raises(ValueError, match="not made by Dianjing"):
        read_image_metadata(tmp_path / name)


def test_pixels_come_back_as_they_were(image, path):
    save_image(image, path, RECORD, label=None)
    with Image.open(path) as saved:
        assert saved.convert("RGB").tobytes() == image.tobytes()


def test_the_label_stands_in_xmp_under_its_namespace(image, path):
    save_image(image, path, RECORD, label=make_image_label(image, RECORD, producer="<某 & Co>"))
    packet = read_texts(path)[XMP_KEY]
    node = ET.fromstring(packet).find(f".//{{{AIGC_NAMESPACE}}}AIGC")
    label = json.loads(node.text)
    assert label["Label"] == "1"
    assert label["ContentProducer"] == "<某 & Co>"
    assert label["ProduceID"]
    assert len(label) == 7
    assert "xmlns:TC260=" in packet


def test_no_label_leaves_no_xmp(image, path):
    save_image(image, path, RECORD, label=None)
    assert XMP_KEY not in read_texts(path)


def test_the_produce_id_follows_from_the_content(image):
    produce_id = make_image_label(image, RECORD, producer="a")["ProduceID"]
    assert make_image_label(image.copy(), RECORD, producer="a")["ProduceID"] == produce_id
    image.putpixel((0, 0), (1, 2, 3))
    assert make_image_label(image, RECORD, producer="a")["ProduceID"] != produce_id


def test_the_same_image_gives_the_same_bytes(image, tmp_path):
    for name in ("a.png", "b.png"):
        save_image(image, tmp_path / name, RECORD, label=make_image_label(image, RECORD, producer="a"))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(image, path, monkeypatch):
    path.write_bytes(b"old")

    def full_disk(file, **_):
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(image, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_image(image, path, RECORD, label=None)
    assert os.listdir(path.parent) == [path.name]
    assert path.read_bytes() == b"old"


def test_a_new_file_has_default_permissions(image, path):
    save_image(image, path, RECORD, label=None)
    (path.parent / "plain").touch()
    default = stat.S_IMODE((path.parent / "plain").stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == default


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist; make it first"):
        check_output_path(tmp_path / "none" / "cat.png")


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    # the system decides, so that root and read-only file systems are handled
    monkeypatch.setattr(atomic.os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="read-only"):
        check_output_path(tmp_path / "cat.png")


def test_a_symbolic_link_is_refused(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(ValueError, match="symbolic link"):
        check_output_path(tmp_path / "link.png")


@pytest.mark.parametrize("name", ["cat", "cat.jpg", "cat.png.txt"])
def test_another_format_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"does not end in \.png"):
        check_output_path(tmp_path / name)


def test_a_folder_instead_of_the_file_is_refused(tmp_path):
    (tmp_path / "dir.png").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        check_output_path(tmp_path / "dir.png")


def test_a_file_instead_of_the_folder_is_refused(path):
    path.touch()
    with pytest.raises(ValueError, match="is not a folder"):
        check_output_path(path / "cat.png")


def test_a_name_too_long_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be written"):
        check_output_path(tmp_path / ("x" * 5000 + ".png"))


def test_an_image_of_another_program_has_no_metadata(image, path):
    image.save(path)
    with pytest.raises(ValueError, match="not made by Dianjing"):
        read_image_metadata(path)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"<svg/>", b"\x89PNG\r\n\x1a\nrubbish"])
def test_a_file_that_is_no_png_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as an image"):
        read_image_metadata(path)


def test_a_truncated_png_is_refused(image, path):
    save_image(image, path, RECORD, label=None)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"cat\.png"):
        read_image_metadata(path)


def test_a_missing_file_is_named(path):
    with pytest.raises(ValueError, match="there is no file"):
        read_image_metadata(path)
