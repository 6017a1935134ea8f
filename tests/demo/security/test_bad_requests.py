"""Requests that no page sends are a 4xx in the caller's language, with neither traceback nor prompt in the log."""

import json

import pytest

pytestmark = pytest.mark.timeout(600)  # the machine may be busy

PROMPT = "a cat on the grass, " * 30 + "the end of the prompt"
NUMBERS = [-1, 10**6, 2**63, 2**200, None, "a", 0.5, [], {}]


def assert_refused(server, response, what):
    assert 400 <= response.status < 500, (what, response.text)
    assert "Traceback" not in response.text
    assert "site-packages" not in response.text


@pytest.fixture
def new_errors(open_server):
    """The text that the server has written to its standard error since the start of the test."""
    start = open_server.errors.stat().st_size
    return lambda: open_server.errors.read_bytes()[start:].decode(errors="replace")


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_unknown_functions_are_refused(open_server, new_errors, number):
    body = {"fn_index": number, "data": [PROMPT], "session_hash": "a", "trigger_id": number}
    for path in ("run/predict", "api/predict", "queue/join", "call/nothing", "call/v2/nothing", "run/nothing"):
        assert_refused(open_server, open_server.send("POST", f"/gradio_api/{path}", body), path)
    text = new_errors()
    assert "Traceback" not in text
    assert "the end of the prompt" not in text


def test_a_refusal_is_in_the_callers_language(open_server):
    body = {"fn_index": 10**6, "data": []}
    response = open_server.send("POST", "/gradio_api/run/predict", body, {"Accept-Language": "zh-CN"})
    assert response.status == 404
    assert response.json()["error"]["message"].startswith("没有这个函数")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"a"',
        b'{"data": null}',
        b'{"data": {}}',
        b'{"data": "a"}',
        b'{"fn_index": 0}',
        b'{"fn_index": 0, "data": []}',
        b'{"fn_index": 0, "data": [NaN, Infinity]}',
        b'{"data": ["\\ud800"], "fn_index": 0}',
        b"\xff\xfe",
        json.dumps({"fn_index": 0, "data": [[[[[{"a": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}]]]]]}).encode(),
        json.dumps(
            {"fn_index": 0, "data": [PROMPT], "event_data": 3, "trigger_id": 5, "session_hash": "x" * 9}
        ).encode(),
    ],
)
@pytest.mark.parametrize("path", ["run/predict", "queue/join", "call/image", "call/v2/image"])
def test_malformed_bodies_are_refused(open_server, new_errors, path, body):
    response = open_server.send("POST", f"/gradio_api/{path}", body, {"Content-Type": "application/json"})
    if response.status != 200:  # a queue accepts a call of the right form, and reports its failure later
        assert_refused(open_server, response, body)
    assert open_server.send("GET", "/healthz").status == 200
    assert "Traceback" not in new_errors()


def test_every_event_survives_values_of_every_wrong_kind(open_server, new_errors):
    values = [None, True, -1, 2**70, 0.5, "", PROMPT, "\0", [], [[]], {}, {"a": 1}, [{"a": [None]}]]
    for event in open_server.get_events():
        for value in values:
            body = {
                "fn_index": event["id"],
                "data": [value] * len(event["inputs"]),
                "event_data": {"index": value, "value": value},
                "session_hash": "wrong-kinds",
            }
            response = open_server.send("POST", "/gradio_api/run/predict", body)
            assert "Traceback" not in response.text
            assert "site-packages" not in response.text
    assert PROMPT[:250] not in new_errors()  # beginning and end may stand in one shortened message
    assert open_server.send("GET", "/healthz").status == 200


def test_methods_and_routes_that_do_not_exist_have_their_own_status(open_server):
    for method, path, status in [
        ("POST", "/healthz", 405),
        ("PUT", "/gradio_api/upload", 405),
        ("DELETE", "/gradio_api/run/predict", 405),
        ("GET", "/v1/nothing", 404),
        ("GET", "/nothing", 404),
        ("POST", "/", 405),
        ("TRACE", "/", 405),
    ]:
        response = open_server.send(method, path, headers={"Accept-Language": "zh-CN"})
        assert response.status == status, (method, path)
        assert response.json()["error"]["type"] == "invalid_request_error"
        assert response.headers["content-language"] == "zh"


def test_long_prompts_are_cut_in_the_log(open_server, new_errors):
    assert open_server.send("POST", "/v1/images/generations", {"prompt": PROMPT}).status == 200
    assert "the end of the prompt" not in new_errors()


def test_every_response_confines_the_page(open_server):
    paths = [
        "/",
        "/config",
        "/theme.css",
        "/docs",
        "/healthz",
        "/nothing",
        "/gradio_api/file=a",
        "/v1/models",
        "/openapi.json",
    ]
    for path in paths:
        headers = open_server.send("GET", path).headers
        policy = dict(part.partition(" ")[::2] for part in headers["content-security-policy"].split("; "))
        assert policy["frame-ancestors"] == "'none'"
        assert policy["default-src"] == "'self'"
        assert policy["object-src"] == "'none'"
        assert "'unsafe-inline'" not in policy["script-src"]
        assert not any("http" in sources or "*" in sources for sources in policy.values())
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    assert open_server.send("GET", "/v1/nothing", headers={"Origin": "https://evil.example"}).headers["x-frame-options"]


def test_each_page_has_a_nonce_of_its_own(open_server):
    pages = [open_server.send("GET", "/", headers={"Accept-Encoding": "br, gzip"}) for _ in range(2)]
    nonces = [page.headers["content-security-policy"].partition("'nonce-")[2].partition("'")[0] for page in pages]
    assert nonces[0] != nonces[1]
    for page, nonce in zip(pages, nonces, strict=True):
        assert page.text.count(f'<script nonce="{nonce}"') >= 2
        assert int(page.headers["content-length"]) == len(page.body)
