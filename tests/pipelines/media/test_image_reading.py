"""Image files as cameras and other programs write them: read as they look, or refused by name."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageDraw

from dianjing.cli.video_job import validate_animation_job
from dianjing.errors import DianjingError
from dianjing.pipelines.media import image as image_module
from dianjing.pipelines.media.color import to_rgb
from dianjing.pipelines.media.image import check_image, open_image
from tests.random_pictures import make_random_picture

EXIF_ORIENTATION = 0x112


@pytest.fixture
def picture():
    """Green with a red block at the top left, so that every orientation looks different."""
    picture = Image.new("RGB", (12, 8), (30, 160, 60))
    ImageDraw.Draw(picture).rectangle([0, 0, 3, 2], fill=(220, 30, 30))
    return picture


def encode(picture, format_name="PNG", **options):
    file = io.BytesIO()
    picture.save(file, format_name, **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_a_second_conversion_does_not_rotate_an_image_again(picture, format_name, orientation):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    with Image.open(io.BytesIO(encode(picture, format_name, exif=exif))) as opened:
        once = to_rgb(opened)
    assert to_rgb(once).tobytes() == once.tobytes()
    assert check_image(once).size == once.size


def insert_chunk(png, kind, data):
    at = png.index(b"IDAT") - 4
    return png[:at] + struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) + png[at:]


def read(content, name="a.png"):
    return open_image(io.BytesIO(content), name=name)


@pytest.mark.parametrize("data", [b"hello world", b"", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
def test_garbage_exif_of_a_png_is_ignored(picture, data):
    assert read(insert_chunk(encode(picture), b"eXIf", data)).tobytes() == picture.tobytes()


@pytest.mark.parametrize("format_name", ["JPEG", "WEBP"])
def test_garbage_exif_of_other_formats_is_ignored(picture, format_name):
    content = encode(picture, format_name, exif=b"Exif\x00\x00garbagegarbage", quality=100)
    assert read(content).size == picture.size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_becomes_upright(picture, orientation):
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    undo = {5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's constants of the inverse transpositions
    methods = {2: 0, 3: 3, 4: 1} | undo
    stored = picture if orientation == 1 else picture.transpose(Image.Transpose(methods[orientation]))
    assert read(encode(stored, exif=exif)).tobytes() == picture.tobytes()


def test_an_orientation_that_is_no_number_is_ignored(picture):
    entry = struct.pack("<HHI4s", EXIF_ORIENTATION, 2, 3, b"up\0\0")  # one field, of ASCII characters
    exif = b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    assert read(insert_chunk(encode(picture), b"eXIf", exif)).tobytes() == picture.tobytes()


@pytest.mark.parametrize("top", [255, 1020, 65535])
def test_levels_of_16_bits_are_scaled_one_way(top):
    levels = np.linspace(0, top, 96).astype(np.uint16).reshape(8, 12)
    image = np.asarray(read(encode(Image.fromarray(levels))))
    np.testing.assert_array_equal(image[..., 0], np.round(levels / 257))


def test_the_transparent_level_of_16_bits_is_white():
    levels = np.full((4, 4), 700, np.uint16)
    levels[0, 0] = 0
    content = insert_chunk(encode(Image.fromarray(levels)), b"tRNS", struct.pack(">H", 700))
    image = np.asarray(read(content))
    assert (image[1:] == 255).all()
    assert (image[0, 0] == 0).all()


@pytest.mark.parametrize("top", [1, 255, 65535])
def test_floats_are_scaled_to_their_white(top):
    levels = np.linspace(0, 1, 96, dtype=np.float32).reshape(8, 12)
    image = np.asarray(read(encode(Image.fromarray(levels * top), "TIFF")))
    np.testing.assert_allclose(image[..., 1], levels * 255, atol=0.51)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_pixels_that_are_not_finite_are_refused_by_name(value):
    levels = np.zeros((4, 4), np.float32)
    levels[1, 2] = value
    with pytest.raises(DianjingError, match=r"depth\.tif has pixels that are no numbers"):
        read(encode(Image.fromarray(levels), "TIFF"), name="depth.tif")


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 100_000)])
def test_floats_without_a_known_white_are_refused_with_their_range(low, high):
    levels = np.linspace(low, high, 16, dtype=np.float32).reshape(4, 4)
    with pytest.raises(DianjingError, match=rf"depth\.tif has pixels from {low} to {high}"):
        read(encode(Image.fromarray(levels), "TIFF"), name="depth.tif")


def make_alpha_images():
    """Images of all modes with alpha: the left half hides a colour, the right half is opaque black."""
    rgba = Image.new("RGBA", (8, 4), (255, 0, 255, 0))
    rgba.paste((0, 0, 0, 255), (4, 0, 8, 4))
    palette = Image.new("P", (8, 4), 1)
    palette.putpalette([0, 0, 0, 255, 0, 255])
    palette.paste(0, (4, 0, 8, 4))
    palette.info["transparency"] = 1
    gray = Image.new("L", (8, 4), 90)
    gray.paste(0, (4, 0, 8, 4))
    gray.info["transparency"] = 90
    rgb = Image.new("RGB", (8, 4), (255, 0, 255))
    rgb.paste((0, 0, 0), (4, 0, 8, 4))
    rgb.info["transparency"] = (255, 0, 255)
    rgba_palette = Image.new("P", (8, 4), 1)
    rgba_palette.putpalette([0, 0, 0, 255, 255, 0, 255, 0], "RGBA")
    rgba_palette.paste(0, (4, 0, 8, 4))
    images = {"RGBA": rgba, "LA": rgba.convert("LA"), "RGBa": rgba.convert("RGBa"), "PA": palette.convert("PA")}
    images |= {"La": rgba.convert("LA").convert("La"), "P": palette, "L": gray, "RGB": rgb}
    return images | {"P with RGBA palette": rgba_palette}


@pytest.mark.parametrize("mode", make_alpha_images())
def test_transparent_parts_are_white_in_every_mode(mode):
    rgb = np.asarray(check_image(make_alpha_images()[mode]))
    assert (rgb[:, :4] == 255).all()
    assert (rgb[:, 4:] == 0).all()


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "TIFF", "GIF"])
def test_transparent_parts_are_white_in_every_format(format_name):
    options = {"lossless": True, "exact": True} if format_name == "WEBP" else {}
    image = np.asarray(read(encode(make_alpha_images()["RGBA"], format_name, **options)))
    assert (image[:, :4] == 255).all()


def test_lab_is_converted_by_its_profile():
    color = Image.new("RGB", (4, 4), (200, 60, 30))
    lab = ImageCms.profileToProfile(
        color, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    np.testing.assert_allclose(np.asarray(to_rgb(lab)), np.asarray(color), atol=3)


@pytest.mark.parametrize("format_name", ["AVIF", "HEIF"])
def test_formats_of_phones_are_read(picture, format_name):
    if format_name == "HEIF":
        image_module._get_readable_formats()  # registers the library
    image = np.asarray(read(encode(picture.resize((96, 64)), format_name, quality=100)), int)
    assert np.abs(image - np.asarray(picture.resize((96, 64)), int)).mean() < 6


def test_a_damaged_heic_is_named_as_one():
    content = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100)
    with pytest.raises(DianjingError, match=r"photo\.heic cannot be read as an image \(HEIC\)"):
        read(content, name="photo.heic")


def test_heic_without_its_library_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    image_module._get_readable_formats.cache_clear()
    content = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(100)
    with pytest.raises(DianjingError, match=r"photo\.heic is HEIC.*dianjing\[heic\]"):
        read(content, name="photo.heic")
    image_module._get_readable_formats.cache_clear()


@pytest.mark.parametrize(
    ("content", "format_name"),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%PDF-1.7\n", "PDF"),
        (b"8BPS\0\x01", "PSD"),
        (b"<!DOCTYPE html><title>404</title>", "HTML"),
    ],
)
def test_other_formats_under_the_name_of_a_png_are_named(tmp_path, content, format_name):
    (tmp_path / "logo.png").write_bytes(content)
    with pytest.raises(DianjingError, match=rf"logo\.png is {format_name}"):
        open_image(tmp_path / "logo.png")


def test_a_message_about_bytes_names_the_file_and_no_address():
    with pytest.raises(DianjingError, match=r"^a\.jpg cannot be read") as caught:
        read(b"no picture", name="a.jpg")
    assert "0x" not in str(caught.value)


def describe_outcome(name, content):
    try:
        return read(content, name=name).mode
    except DianjingError as error:
        return str(error)


def animate(content, name, folder):
    """Check a picture as `dianjing animate` does before it loads a model; return its name, or the error."""
    path = folder / name
    path.write_bytes(content)
    unset = (
        "enhance",
        "guidance_mode",
        "scheduler",
        "segmenter",
        "mask_preview_path",
        "producer",
        "duration_s",
        "num_frames",
        "fps",
        "width",
        "height",
    )
    settings = dict.fromkeys((*unset, "num_inference_steps", "guidance_scale"))
    settings |= {
        "click_texts": ["0,0"],
        "mask_paths": [],
        "region_texts": [],
        "motions": ["jump"],
        "strengths": [],
        "prompt": "",
        "seed": 0,
        "strict_background": True,
        "refine": "auto",
    }
    settings |= {"out": folder / "out.mp4", "model": "sticker", "loras": [], "device": "cpu", "dtype": "auto"}
    try:
        return validate_animation_job(path, **settings).image_path.name
    except DianjingError as error:
        return str(error)
    finally:
        path.unlink()


@pytest.mark.parametrize("start", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(250, 2000, 250))])
def test_random_pictures_are_animated_or_refused_by_name(start, tmp_path):
    pictures = [make_random_picture(index) for index in range(start, start + 250)]
    outcomes = [(name, animate(content, name, tmp_path)) for name, content in pictures]
    assert sum(name == outcome for name, outcome in outcomes) > 150
    assert all(name in outcome for name, outcome in outcomes)


@pytest.mark.parametrize("start", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(250, 2000, 250))])
def test_random_pictures_are_read_or_refused_by_name(start):
    pictures = [make_random_picture(index) for index in range(start, start + 250)]
    outcomes = [describe_outcome(name, content) for name, content in pictures]
    assert outcomes.count("RGB") > 150
    assert all(outcome == "RGB" or name in outcome for outcome, (name, _) in zip(outcomes, pictures, strict=True))
