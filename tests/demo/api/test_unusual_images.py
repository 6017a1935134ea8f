"""Images of unusual modes over HTTP: they move upright, in their own colors, with their transparent parts."""

import base64
import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageSequence

from tests.demo.api.test_app import wait_for_video

EXIF_ORIENTATION = 0x112
RED, BLUE = (220, 40, 30), (90, 140, 200)


def draw():
    """A red square on blue whose upper rows are transparent, RGBA."""
    pixels = np.full((60, 80, 4), (*BLUE, 255), np.uint8)
    pixels[20:40, 30:50, :3] = RED
    pixels[:10, :, 3] = 0
    return pixels


def encode(image, format_name, **options):
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def encode_16_bits(pixels):
    """A PNG of 16 bits, of the channels in OpenCV's order."""
    return cv2.imencode(".png", pixels.astype(np.uint16) * 257)[1].tobytes()


def iterate_images():
    """Name, file, and the image that it shows, RGBA."""
    pixels = draw()
    opaque, grey = pixels.copy(), pixels.copy()
    opaque[..., 3], grey[..., :3] = 255, pixels[..., :1]
    opaque_grey = np.dstack([grey[..., :3], opaque[..., 3]])
    rgb = Image.fromarray(opaque[..., :3])
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    yield "rotated", encode(rgb.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=97), opaque
    yield "CMYK", encode(rgb.convert("CMYK"), "JPEG", quality=97), opaque
    yield "16 bits", encode_16_bits(opaque[..., 2::-1]), opaque
    yield "16 bits with alpha", encode_16_bits(pixels[..., [2, 1, 0, 3]]), pixels
    yield "grey of 16 bits", encode_16_bits(pixels[..., 0]), opaque_grey
    yield "grey with alpha", encode(Image.fromarray(grey[..., 2:]), "PNG"), grey
    yield "palette", encode(Image.fromarray(pixels).quantize(16), "PNG"), pixels
    yield "animated", encode(rgb, "WEBP", save_all=True, append_images=[rgb], quality=97), opaque


@pytest.mark.parametrize(("content", "expected"), [pytest.param(*rest, id=name) for name, *rest in iterate_images()])
def test_an_unusual_image_moves_upright_in_its_own_colors(client, content, expected):
    region = {"points": [{"x": 40, "y": 30}], "path": [[40, 30], [60, 30]]}
    body = {"image": base64.b64encode(content).decode(), "regions": [region], "num_frames": 2, "seed": 1}
    video = wait_for_video(client, client.post("/v1/videos", json=body).json())
    response = client.get(f"/v1/videos/{video['id']}/content", params={"variant": "webp"})
    with Image.open(io.BytesIO(response.content)) as made:
        first, last = (np.asarray(frame.convert("RGBA")).astype(int) for frame in ImageSequence.Iterator(made))
    np.testing.assert_array_equal(first[..., 3], expected[..., 3])
    is_visible = expected[..., 3] > 0
    assert np.abs(first - expected)[is_visible].mean() < 4  # the file is lossy
    assert np.abs(last[24:36, 54:66] - expected[24:36, 34:46]).mean() < 8
