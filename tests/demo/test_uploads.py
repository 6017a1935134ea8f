"""Uploaded images in base64."""

import base64
import io

import pytest
from PIL import Image

from dianjing.demo.limits import ServerLimits
from dianjing.demo.uploads import decode_base64_image

LIMITS = ServerLimits()


def test_an_image_in_base64_is_decoded_with_and_without_a_data_url():
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48)).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    assert decode_base64_image(encoded, LIMITS).size == (64, 48)
    assert decode_base64_image(f"data:image/png;base64,{encoded}", LIMITS).size == (64, 48)
    with pytest.raises(ValueError, match="not valid base64"):
        decode_base64_image("/etc/passwd?", LIMITS)
    with pytest.raises(ValueError, match="cannot be read"):
        decode_base64_image(base64.b64encode(b"<svg>").decode(), LIMITS)
