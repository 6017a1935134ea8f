"""Uploaded images in base64."""

import base64
import io
import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dianjing.demo.limits import ServerLimits
from dianjing.demo.uploads import check_conversation_size, decode_base64_image, decode_upload
from dianjing.errors import DianjingError

LIMITS = ServerLimits()


@pytest.fixture(scope="module")
def content():
    """A PNG whose base64 has all kinds of characters, and two of padding."""
    picture = Image.effect_noise((64, 48), 80)
    for comment in range(100):
        buffer = io.BytesIO()
        info = PngInfo()
        info.add_text("comment", "a" * comment)
        picture.save(buffer, "PNG", pnginfo=info)
        encoded = base64.b64encode(buffer.getvalue())
        if encoded.endswith(b"==") and b"+" in encoded and b"/" in encoded:
            return buffer.getvalue()
    raise AssertionError("no such image")


FORMS = {
    "plain": lambda encoded: encoded,
    "in lines": lambda encoded: "\r\n".join(encoded[i : i + 76] for i in range(0, len(encoded), 76)) + "\n",
    "indented": lambda encoded: "\n".join(f"\t  {encoded[i : i + 64]}" for i in range(0, len(encoded), 64)),
    "unpadded": lambda encoded: encoded.rstrip("="),
    "half padded": lambda encoded: encoded[:-1],
    "URL-safe": lambda encoded: encoded.translate(str.maketrans("+/", "-_")),
    "URL-safe, unpadded": lambda encoded: encoded.translate(str.maketrans("+/", "-_")).rstrip("="),
}
HEADS = [
    "",
    "data:image/png;base64,",
    "data:image/jpeg;base64,",
    "data:image/svg+xml;charset=utf-8;base64,",
    "data:image/png;name=a cat.png;base64,",
    "data:;base64,",
    "data:application/octet-stream;base64,",
    "DATA:IMAGE/PNG;BASE64,",
    " data:image/png; base64, ",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("head", HEADS)
def test_base64_is_decoded_as_programs_write_it(content, form, head):
    decoded = decode_base64_image(head + FORMS[form](base64.b64encode(content).decode()), LIMITS)
    assert decoded.tobytes() == decode_upload(content, LIMITS).tobytes()


@pytest.mark.parametrize(
    "text",
    [
        "/etc/passwd?",
        "http://127.0.0.1/cat.png",
        "file:///etc/passwd",
        "data:image/png,cat",
        "data:image/png;base64,cat!",
        "data:text/html;base64," + "a" * 9 + "é",
        "aaaaa",
        "\ud800",
    ],
)
def test_what_is_no_base64_is_refused(text):
    with pytest.raises(DianjingError, match="not valid base64"):
        decode_base64_image(text, LIMITS)


@pytest.mark.parametrize("content", [b"<svg>", b"", b"a"])
def test_what_is_no_image_is_refused(content):
    with pytest.raises(DianjingError, match="cannot be read"):
        decode_base64_image(base64.b64encode(content).decode(), LIMITS)


def make_conversation(num_turns, side_px):
    buffer = io.BytesIO()
    Image.new("1", (side_px, side_px)).save(buffer, "PNG")
    turn = {"png": base64.b64encode(buffer.getvalue()).decode(), "prompt": "cat"}
    return json.dumps({"turns": [turn] * num_turns}).encode()


def test_a_small_conversation_file_may_not_hold_images_that_fill_the_memory():
    content = make_conversation(num_turns=2, side_px=4000)
    assert len(content) < 20_000
    with pytest.raises(ValueError, match="more than 16,000,000 pixels"):
        check_conversation_size(content, LIMITS)
    check_conversation_size(make_conversation(num_turns=1, side_px=4000), LIMITS)
    check_conversation_size(make_conversation(num_turns=200, side_px=64), LIMITS)


def test_a_conversation_file_may_not_hold_millions_of_values():
    with pytest.raises(ValueError, match="more than 400,000 values"):
        check_conversation_size(b"[" + b"{}," * 400_000 + b"0]", LIMITS)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"turns": 3}', b'{"turns": [{"png": 3}]}', b"[" * 99_999])
def test_what_is_no_conversation_is_left_to_its_reader(content):
    check_conversation_size(content, LIMITS)
