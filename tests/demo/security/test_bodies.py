"""Request bodies: one limit on every route, before anything is parsed, and memory that does not follow their size."""

import io
import itertools
import json
import re
import socket
from pathlib import Path

import pytest
from PIL import Image

from tests.demo.security.conftest import TIMEOUT_S

pytestmark = pytest.mark.timeout(600)  # the machine may be busy

MIB = 2**20
MAX_GROWTH_BYTES = 100 * MIB
LONG_BYTES = 99_000_000
ROUTES = [
    "/gradio_api/run/predict",
    "/gradio_api/run/image",
    "/gradio_api/api/image",
    "/gradio_api/call/image",
    "/gradio_api/call/v2/image",
    "/gradio_api/queue/join",
    "/gradio_api/upload",
    "/gradio_api/cancel",
    "/gradio_api/reset",
    "/gradio_api/mcp/",
    "/v1/images/generations",
    "/v1/videos",
    "/login",
    "/no/such/route",
]
JSON_TYPE = "application/json"


def send_raw(server, path, parts, *, length=None, content_type=JSON_TYPE):
    """Send a body in parts, by its length or chunked, until the server refuses it; return the start of the response."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
    head += "Transfer-Encoding: chunked\r\n\r\n" if length is None else f"Content-Length: {length}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as connection:
        try:
            connection.sendall(head.encode())
            for part in parts:
                connection.sendall(part if length is not None else b"%x\r\n%b\r\n" % (len(part), part))
            if length is None:
                connection.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has been refused, and the rest is not read
        try:
            return connection.recv(4096)
        except ConnectionResetError:
            return b""


def get_peak_growth(server, action):
    """By how many bytes the server's memory has grown at most during a call of `action`, and its result."""
    folder = Path(f"/proc/{server.pid}")
    before = server.get_memory_bytes()
    (folder / "clear_refs").write_text("5")  # sets the peak back to the present size
    result = action()
    peak_kib = int(re.search(r"VmHWM:\s+(\d+) kB", (folder / "status").read_text())[1])
    return peak_kib * 1024 - before, result


def make_long_parts():
    yield b'{"session_hash": "a", "fn_index": 0, "data": ["'
    yield from itertools.repeat(b"x" * 100_000, LONG_BYTES // 100_000)
    yield b'"]}'


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_99_megabytes_are_refused_on_every_route_in_little_memory(open_server, route, is_chunked):
    length = None if is_chunked else LONG_BYTES + 100
    growth, answer = get_peak_growth(
        open_server, lambda: send_raw(open_server, route, make_long_parts(), length=length)
    )
    assert growth < MAX_GROWTH_BYTES
    status = answer[9:12]
    if not is_chunked:
        assert status == b"413"  # by the header alone
    assert status in (b"413", b"404", b"400", b"")  # the connection may end before the answer is read
    assert open_server.send("GET", "/healthz").status == 200


@pytest.mark.parametrize("route", ["/gradio_api/run/predict", "/gradio_api/queue/join", "/v1/images/generations"])
@pytest.mark.parametrize("item", [b"{},", b"[],", b'{"a":1},', b"1,", b'"",', b"[[[[[[[[]]]]]]]],"])
def test_many_small_values_are_refused_in_little_memory(open_server, route, item):
    count = 20 * MIB // len(item)
    body = b'{"fn_index": 0, "data": [' + item * count + b"0]}"
    growth, answer = get_peak_growth(open_server, lambda: send_raw(open_server, route, [body], length=len(body)))
    assert growth < MAX_GROWTH_BYTES
    assert answer[9:12] in (b"413", b"")


def test_a_long_body_below_the_limit_is_read_in_little_memory(open_server):
    body = json.dumps({"prompt": "cat", "image": "x" * (31 * MIB)}).encode()
    growth, answer = get_peak_growth(
        open_server, lambda: send_raw(open_server, "/v1/images/generations", [body], length=len(body))
    )
    assert answer[9:12] == b"400"
    assert growth < MAX_GROWTH_BYTES + len(body)  # the body itself, and its text


def test_deep_values_are_refused(open_server):
    for route in ("/gradio_api/run/predict", "/gradio_api/queue/join", "/v1/images/generations", "/v1/videos"):
        for deep in (b"[" * 100_000, b'{"data":' * 10_000, b'{"data":[' + b"[" * 50_000 + b"]" * 50_000 + b"]}"):
            assert send_raw(open_server, route, [deep], length=len(deep))[9:10] == b"4"
    assert open_server.send("GET", "/healthz").status == 200


@pytest.mark.parametrize("length", ["-1", "abc", "1e3", "99999999999999999999", "0x10"])
def test_wrong_lengths_are_refused(open_server, length):
    assert send_raw(open_server, "/gradio_api/run/predict", [b"{}"], length=length)[9:10] in (b"4", b"")


def make_form(count, *, content=b"x", field="files"):
    parts = [
        f'--edge\r\nContent-Disposition: form-data; name="{field}"; filename="{number}.png"\r\n\r\n'.encode() + content
        for number in range(count)
    ]
    return b"\r\n".join([*parts, b"--edge--\r\n"])


@pytest.mark.parametrize("field", ["files", "other"])
def test_a_request_uploads_one_file(open_server, field):
    headers = {"Content-Type": "multipart/form-data; boundary=edge", "Accept-Language": "zh-CN"}
    for count in (2, 20, 5000):
        response = open_server.send("POST", "/gradio_api/upload", make_form(count, field=field), headers)
        assert response.status == 400
        assert response.text.startswith("无法读取上传的内容")


def test_fields_of_an_upload_are_limited(open_server):
    field = b'--edge\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
    kind = "multipart/form-data; boundary=edge"
    for body in (field + b"x" * (30 * MIB) + b"\r\n--edge--\r\n", (field + b"x\r\n") * 1000 + b"--edge--\r\n", b"--"):

        def send(body=body):
            return send_raw(open_server, "/gradio_api/upload", [body], length=len(body), content_type=kind)

        growth, answer = get_peak_growth(open_server, send)
        assert answer[9:12] in (b"400", b"")  # the connection may end before the answer is read
        assert growth < MAX_GROWTH_BYTES


def test_a_visitor_uploads_200_mebibytes_and_no_more(open_server):
    visitor, other = open_server.make_visitor(), open_server.make_visitor()
    content = b"x" * (16 * MIB)

    def fill():
        return [open_server.upload(content, headers=visitor).status for _ in range(14)]

    growth, statuses = get_peak_growth(open_server, fill)
    assert statuses == [200] * 12 + [413] * 2  # 12 x 16 MiB are 192
    assert growth < MAX_GROWTH_BYTES
    refused = open_server.upload(content, headers={**visitor, "Accept-Language": "zh"})
    assert refused.text.startswith("您上传的文件合计超过 209,715,200 字节")
    assert open_server.upload(b"x" * (16 * MIB + 1), headers=other).status == 400
    assert open_server.upload(content, headers=other).status == 200


def test_a_large_picture_still_arrives(open_server):
    buffer = io.BytesIO()
    Image.effect_noise((2300, 2300), 100).convert("RGB").save(buffer, "PNG", compress_level=0)
    assert 15 * MIB < len(buffer.getvalue()) < 16 * MIB
    [reference] = open_server.upload(buffer.getvalue(), headers={}).json()
    assert open_server.send("GET", f"/gradio_api/file={reference}").body == buffer.getvalue()
