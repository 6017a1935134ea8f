"""Bad input: a 4xx in the caller's language that says what to do, and the server stays healthy."""

import base64
import io
import json
import re
import struct
import zlib

import pytest
from PIL import Image

from dianjing.demo.limits import ServerLimits

REGION = {"motion": "jump", "points": [{"x": 16, "y": 16}]}
HAN_PATTERN = re.compile("[\u4e00-\u9fff]")
SERVER_PATTERN = re.compile(r"/(work|tmp|home|usr|root|srv)/|Traceback|site-packages")


def encode(image, kind="PNG", **options):
    return base64.b64encode(as_bytes(image, kind, **options)).decode()


def as_bytes(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def make_huge_png(width, height):
    """A PNG whose header claims a large size."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def get_refusal(client, path, *, status=400, **options):
    """The English message of a refused request; the same request in Chinese is refused in Chinese."""
    messages = []
    for language in ("en", "zh-CN,zh;q=0.9"):
        headers = {**options.get("headers", {}), "Accept-Language": language}
        response = client.post(path, **{**options, "headers": headers})
        assert response.status_code == status, response.text
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert not SERVER_PATTERN.search(response.text)
        messages.append(error["message"])
    english, chinese = messages
    assert not HAN_PATTERN.search(english)
    assert HAN_PATTERN.search(chinese)
    assert not chinese.startswith("请求有误"), f"no Chinese for: {english}"
    assert client.get("/healthz").json() == {"status": "ok", "queue": 0}
    return english


def make_raw(body, kind="application/json"):
    return {"content": body if isinstance(body, bytes) else body.encode(), "headers": {"Content-Type": kind}}


@pytest.fixture(scope="module")
def shared_client(tiny_engine):
    from fastapi.testclient import TestClient

    from dianjing.demo.app import make_app
    from dianjing.demo.queue import JobQueue

    queue = JobQueue(tiny_engine, ServerLimits(max_body_bytes=3_000_000, max_upload_bytes=1_000_000))
    yield TestClient(make_app(queue), raise_server_exceptions=False)
    queue.close()


TOO_LONG = r"would take about \d+ (min|h) here; at most 5 min are allowed"
IMAGES = {
    "an empty prompt": ({"prompt": ""}, "prompt is empty"),
    "blanks": ({"prompt": " \n"}, "prompt is empty"),
    "a long prompt": ({"prompt": "a" * 1_000_000}, "1,000,000 characters, but at most 4,096"),
    "NUL": ({"prompt": "a\0b"}, r"U\+0000"),
    "no prompt": ({}, "prompt is missing"),
    "a list for a prompt": ({"prompt": ["cat"]}, "prompt is a list; give a string"),
    "size 0": ({"size": "0x64"}, r"size \(width\) is 0; give a whole number from 1 to 8192"),
    "size -1": ({"size": "64x-1"}, r"size \(height\) is -1"),
    "size 1e9": ({"size": "1000000000x64"}, r"size \(width\) is 1000000000"),
    "no multiple": ({"size": "65x64"}, "not a multiple of 16, the grid of this model; the nearest that are: 64, 80"),
    "odd size": ({"size": "large"}, "size is 'large'; give WIDTHxHEIGHT"),
    "a number for a size": ({"size": 64}, "size is 64; give a string"),
    "n 1e6": ({"n": 1_000_000}, "n is 1000000; give a whole number from 1 to 256"),
    "n 0": ({"n": 0}, "n is 0"),
    "n true": ({"n": True}, "n is true; give a whole number"),
    "steps 0": ({"num_inference_steps": 0}, "num_inference_steps is 0; give a whole number from 1 to 1000"),
    "steps in text": ({"num_inference_steps": "20"}, "num_inference_steps is '20'; give a whole number"),
    "steps 2.5": ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5; give a whole number"),
    "seed -1": ({"seed": -1}, "seed is -1; give a whole number from 0"),
    "seed 2**64": ({"seed": 2**64}, "seed is 18446744073709551616"),
    "no room for seeds": ({"seed": 2**64 - 1, "n": 2}, "is too large for 2 images"),
    "guidance 101": ({"guidance_scale": 101}, "guidance_scale is 101.0; give a number from 0 to 100"),
    "an unknown field": ({"sampler": "ddim"}, "there is no field sampler"),
    "another model": ({"model": "dall-e-3"}, "model is 'dall-e-3'; this server has film"),
    "an internal field": ({"num_images": 2}, "there is no field num_images; /docs lists the fields"),
    "an unknown format": ({"output_format": "gif"}, "output_format is 'gif'; give one of png, jpeg, webp"),
    "compression 101": ({"output_compression": 101}, "output_compression is 101; give a whole number from 0 to 100"),
    "transparency": ({"background": "transparent", "output_format": "jpeg"}, "output_format is jpeg, which has no"),
    "four previews": ({"stream": True, "partial_images": 4}, "partial_images is 4; give a whole number from 0 to 3"),
    "a stream of addresses": ({"stream": True, "response_format": "url"}, "response_format is 'url', but a stream"),
    "too much": ({"size": "8192x8192", "num_inference_steps": 1000}, TOO_LONG),
}


@pytest.mark.parametrize("case", IMAGES)
def test_a_bad_request_for_images_is_refused(shared_client, case):
    fields, reason = IMAGES[case]
    body = {"prompt": "cat", **fields} if case != "no prompt" else fields
    status = 404 if case == "another model" else 400
    assert re.search(reason, get_refusal(shared_client, "/v1/images/generations", json=body, status=status))


RAW = {
    "NaN steps": ('{"prompt": "cat", "num_inference_steps": NaN}', "num_inference_steps is nan; give a whole number"),
    "NaN guidance": ('{"prompt": "cat", "guidance_scale": NaN}', "guidance_scale is nan"),
    "infinite guidance": ('{"prompt": "cat", "guidance_scale": Infinity}', "guidance_scale is inf"),
    "1e999": ('{"prompt": "cat", "guidance_scale": 1e999}', "guidance_scale is inf"),
    "a lone surrogate": ('{"prompt": "a \\ud800 cat"}', "Unicode"),
    "no JSON": ("prompt=cat", "the body is not JSON"),
    "half of JSON": ('{"prompt": ', "the body is not JSON"),
    "a list": ('["cat"]', "the body is a list; give an object"),
    "null": ("null", "the body is null; give an object"),
    "nothing": ("", "the body is missing"),
    "an unprintable field": ('{"prompt": "cat", "\\ud800\\u202e": 1}', "the body is not valid Unicode"),
    "deep": ("[" * 100_000, "the body cannot be read"),
    "a long number": ('{"prompt": "cat", "seed": ' + "9" * 5000 + "}", "the body cannot be read"),
    "no UTF-8": (b'{"prompt": "\xff\xfe"}', "the body cannot be read"),
}


@pytest.mark.parametrize("case", RAW)
def test_a_bad_body_is_refused(shared_client, case):
    content, reason = RAW[case]
    assert re.search(reason, get_refusal(shared_client, "/v1/images/generations", **make_raw(content)))


@pytest.mark.parametrize("prompt", ["‮cat‬ قطة", "🐱👩‍👩‍👧", "草" * 4096, "a\tb\nc"])
def test_unusual_prompts_are_accepted(shared_client, prompt):
    body = {"prompt": prompt, "num_inference_steps": 1}
    assert shared_client.post("/v1/images/generations", json=body).status_code == 200


def test_a_wrong_content_type_is_refused(shared_client):
    get_refusal(shared_client, "/v1/images/generations", **make_raw('{"prompt": "cat"}', "text/plain"))
    message = get_refusal(shared_client, "/v1/videos", status=415, **make_raw('{"prompt": "cat"}', "text/plain"))
    assert message == "the content type is 'text/plain'; send application/json or multipart/form-data"


def test_too_long_a_body_is_refused_before_it_is_read(shared_client):
    def endless():
        for _ in range(100):
            yield b" " * 100_000

    message = get_refusal(shared_client, "/v1/videos", status=413, **make_raw(b" " * 3_000_001))
    assert message == "the request is too long; at most 3,000,000 bytes are allowed: send a smaller image"
    response = shared_client.post("/v1/videos", content=endless(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413


def test_unknown_addresses_and_methods_are_refused_in_the_same_shape(shared_client):
    assert (
        get_refusal(shared_client, "/v1/audio", status=404)
        == "this server has no such address; /docs lists its addresses"
    )
    assert get_refusal(shared_client, "/v1/models", status=405).startswith("this address does not support this method")


WHITE = Image.new("RGB", (32, 32), "white")
VIDEOS = {
    "a click outside": ({"regions": [{**REGION, "points": [{"x": 32, "y": 0}]}]}, "outside the image of 32 x 32 px"),
    "a negative place": ({"regions": [{**REGION, "points": [{"x": -0.5, "y": 0}]}]}, "outside the image"),
    "100,000 clicks": (
        {"regions": [{**REGION, "points": [{"x": 1, "y": 1}] * 50_000}]},
        "50,000 points are given; at most 1,000",
    ),
    "no clicks": ({"regions": [{**REGION, "points": []}]}, "the region of 'jump' needs either points or a mask"),
    "only negative": ({"regions": [{**REGION, "points": [{"x": 1, "y": 1, "positive": False}]}]}, "are negative"),
    "a place in text": ({"regions": [{**REGION, "points": [{"x": "1", "y": 1}]}]}, "regions.0.points.0.x is '1'"),
    "an unknown field of a click": (
        {"regions": [{**REGION, "points": [{"x": 1, "y": 1, "z": 1}]}]},
        "no field regions.0.points.0.z",
    ),
    "no motion": ({"regions": [{**REGION, "motion": ""}]}, "motion is empty"),
    "too strong": ({"regions": [{**REGION, "strength": 1.5}]}, "strength is 1.5; give a number from 0 to 1"),
    "a path that leaves": ({"regions": [{**REGION, "path": [[1, 1], [99, 1]]}]}, "outside the image of 32 x 32"),
    "a path of one point": ({"regions": [{**REGION, "path": [[1, 1]]}]}, "1 point"),
    "a path of triples": ({"regions": [{**REGION, "path": [[1, 1, 1], [2, 2, 2]]}]}, "path"),
    "times backwards": ({"regions": [{**REGION, "path": [[1, 1], [2, 2]], "times": [0.6, 0.5]}]}, "from 0.6 to 0.5"),
    "a camera with points": ({"regions": [{**REGION, "target": "image"}]}, "takes no points"),
    "paths refined": ({"refine": "on", "regions": [{**REGION, "turn": 9}]}, "refine 'on' takes motion phrases alone"),
    "three regions": ({"regions": [REGION] * 3}, "3 regions are given; this model takes 1 to 2"),
    "no regions": ({"regions": []}, "an image is given without prompt and regions"),
    "a prompt that moves nothing": ({"regions": [], "prompt": "a cat"}, "this model knows no motions by name"),
    "two images": ({"input_reference": encode(Image.new("RGB", (32, 32)))}, "the image is given twice"),
    "a file of OpenAI's": ({"image": None, "input_reference": {"file_id": "file-1"}}, "input_reference.file_id cannot"),
    "a list of seconds": ({"seconds": [4]}, "seconds is a list; give a number"),
    "seconds of many frames": ({"seconds": 900_000}, "seconds × fps is 7200000, but at most .* half of the memory"),
    "seconds of one frame": ({"seconds": 0.01}, "seconds × fps is 1; motion takes at least 2 frames"),
    "no image": ({"image": None}, "regions are given without an image"),
    "one frame": ({"num_frames": 1}, "num_frames is 1; motion takes at least 2 frames"),
    "many frames": ({"num_frames": 10**9}, "fit in half of the memory"),
    "two lengths": ({"num_frames": 3, "seconds": 1}, "num_frames and seconds are both given"),
    "no length": ({"seconds": 0}, "seconds is 0.0; give a number of seconds above 0 and below 1,000,000"),
    "odd seconds": ({"seconds": "soon"}, "seconds is 'soon'; give a number"),
    "fps 0": ({"fps": 0}, "fps is 0"),
    "a long video": ({"num_frames": 4000, "num_inference_steps": 1000}, TOO_LONG),
    "a wrong mode": ({"long_video": "both"}, "long_video is 'both'"),
    "a file URL": ({"image": "file:///etc/passwd"}, "image is not valid base64"),
    "a metadata service": ({"image": "http://169.254.169.254/latest/meta-data/"}, "image is not valid base64"),
    "a path": ({"image": "/etc/passwd"}, "image is not valid base64|cannot be read"),
}


@pytest.mark.parametrize("case", VIDEOS)
def test_a_bad_request_for_a_video_is_refused(shared_client, case):
    fields, reason = VIDEOS[case]
    body = {"image": encode(WHITE), "regions": [REGION], **fields}
    assert re.search(reason, get_refusal(shared_client, "/v1/videos", json=body))


@pytest.mark.parametrize("coordinate", ["NaN", "Infinity", "1e999"])
def test_a_click_without_a_position_is_refused(shared_client, coordinate):
    body = json.dumps({"image": encode(WHITE), "regions": [REGION]}).replace('"x": 16', f'"x": {coordinate}')
    assert "is no position" in get_refusal(shared_client, "/v1/videos", **make_raw(body))


UPLOADS = {
    "a decompression bomb": (make_huge_png(50_000, 50_000), "more than 16,000,000 pixels; scale it down"),
    "too many pixels": (make_huge_png(5000, 4000), "more than 16,000,000 pixels; scale it down"),
    "a ribbon": (make_huge_png(1, 20_000), "at most 20 times the other"),
    "too many bytes": (as_bytes(WHITE) + b"\0" * 1_000_000, "bytes; at most 1,000,000"),
    "half a JPEG": (as_bytes(Image.effect_noise((64, 64), 50), "JPEG")[:600], "cannot be read"),
    "half a PNG": (as_bytes(Image.effect_noise((64, 64), 50))[:600], "cannot be read"),
    "an SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', "cannot be read"),
    "HTML": (b"<html><script>alert(1)</script></html>", "cannot be read"),
    "a TIFF": (as_bytes(WHITE, "TIFF"), "PNG, JPEG, WEBP"),
    "a GIF": (as_bytes(WHITE, "GIF"), "PNG, JPEG, WEBP"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n", "PNG, JPEG, WEBP"),
    "nothing": (b"", "cannot be read"),
}


@pytest.mark.parametrize("case", UPLOADS)
@pytest.mark.parametrize("encoding", ["base64", "file"])
def test_a_bad_upload_is_refused(shared_client, case, encoding):
    content, reason = UPLOADS[case]
    if encoding == "base64":
        options = {"json": {"image": base64.b64encode(content).decode(), "regions": [REGION]}}
    else:
        options = {
            "data": {"regions": json.dumps([REGION])},
            "files": {"input_reference": ("cat.png", content, "image/png")},
        }
    assert re.search(reason, get_refusal(shared_client, "/v1/videos", **options))


def test_a_file_under_another_name_is_refused(shared_client):
    files = {"../../etc/passwd": ("cat.png", as_bytes(WHITE), "image/png")}
    assert "there is no file field" in get_refusal(shared_client, "/v1/videos", data={"prompt": "cat"}, files=files)


def test_a_form_with_a_bad_number_is_refused(shared_client):
    form = {"prompt": "cat", "seed": "twelve", "num_frames": "3"}
    files = {"input_reference": ("cat.png", as_bytes(WHITE), "image/png")}
    assert get_refusal(shared_client, "/v1/videos", data=form, files=files) == "seed is 'twelve'; give a whole number"
