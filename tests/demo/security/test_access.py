"""A key closes everything that generates: the page, Gradio's endpoints, the API and MCP; guesses are slowed down."""

import asyncio
import base64
import re
import socket

import pytest

from tests.demo.security.conftest import TIMEOUT_S, run_server

pytestmark = pytest.mark.timeout(600)  # the machine may be busy

KEY = "a-long-enough-key"
BEARER = {"Authorization": f"Bearer {KEY}"}
HTML = {"Accept": "text/html", "Accept-Language": "zh-CN"}
OPEN_PATHS = ("/healthz", "/metrics", "/docs", "/openapi.json", "/robots.txt", "/login", "/logout")
CLOSED = [
    ("GET", "/"),
    ("GET", "/config"),
    ("GET", "/theme.css"),
    ("GET", "/gradio_api/info"),
    ("GET", "/gradio_api/queue/data?session_hash=a"),
    ("GET", "/gradio_api/heartbeat/a"),
    ("GET", "/gradio_api/file=/etc/hostname"),
    ("POST", "/gradio_api/upload"),
    ("POST", "/gradio_api/run/predict"),
    ("POST", "/gradio_api/call/image"),
    ("POST", "/gradio_api/queue/join"),
    ("POST", "/gradio_api/cancel"),
    ("GET", "/gradio_api/mcp/"),
    ("POST", "/gradio_api/mcp/"),
    ("POST", "/gradio_api/mcp/http"),
    ("POST", "/v1/images/generations"),
    ("POST", "/v1/videos"),
    ("GET", "/v1/videos/a"),
    ("GET", "/v1/models"),
    ("GET", "/assets/index.js"),
    ("GET", "/nothing/here"),
    ("DELETE", "/v1/videos/a"),
]


@pytest.fixture(scope="module")
def server(tiny_folder, tmp_path_factory):
    """A server with a key alone, and MCP."""
    with run_server(
        tmp_path_factory.mktemp("closed"), "--model", str(tiny_folder), "--api-key", KEY, "--mcp"
    ) as running:
        yield running


def test_the_start_says_what_is_open(server):
    text = server.errors.read_text(encoding="utf-8")
    assert re.search(
        r"without a key or login nobody can use the page, the API or MCP; only /docs, /healthz.*open", text
    )


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_everything_else_is_closed_without_the_key(server, method, path):
    response = server.send(method, path, {} if method == "POST" else None)
    assert response.status == 401
    assert response.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    "credentials", ["Bearer", "Bearer x", "Basic ", "Basic !", f"Basic {KEY}", f"Digest {KEY}", KEY]
)
def test_malformed_and_wrong_credentials_are_refused(server, credentials):
    headers = {"Authorization": credentials, "X-Forwarded-For": "203.0.113.10"}
    assert server.send("GET", "/", headers=headers).status in (401, 429)


def test_the_servers_own_name_has_no_password_that_could_be_guessed(server):
    for password in ("", "dianjing", KEY[:-1]):
        wrong = base64.b64encode(f"dianjing:{password}".encode()).decode()
        headers = {"Authorization": f"Basic {wrong}", "X-Forwarded-For": "203.0.113.11"}
        assert server.send("GET", "/", headers=headers).status == 401


def test_every_route_of_the_server_is_listed_as_open_or_is_closed(server):
    for path in server.send("GET", "/openapi.json").json()["paths"]:
        status = server.send("GET", re.sub("{[^}]*}", "a", path)).status
        assert (status != 401) == (path in OPEN_PATHS or path.startswith("/results/")), path


def test_the_key_opens_page_endpoints_and_api(server):
    assert server.send("GET", "/", headers=BEARER).status == 200
    assert server.send("GET", "/config", headers=BEARER).status == 200
    image = server.send("POST", "/v1/images/generations", {"prompt": "cat"}, BEARER)
    assert image.status == 200
    joined = server.send("POST", "/gradio_api/call/v2/image", {"prompt": "cat"}, BEARER)
    assert joined.status == 200
    events = server.send("GET", f"/gradio_api/call/image/{joined.json()['event_id']}", headers=BEARER)
    assert "event: complete" in events.text


def test_an_agent_uses_the_key(server):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def call():
        address = f"http://127.0.0.1:{server.port}/gradio_api/mcp/"
        async with (
            streamablehttp_client(address, headers=BEARER) as (incoming, outgoing, _),
            ClientSession(incoming, outgoing) as session,
        ):
            await session.initialize()
            return await session.call_tool("image", {"prompt": "cat", "num_inference_steps": 1})

    result = asyncio.run(call())
    assert not result.isError, result.content
    assert result.content[0].type == "image"


def test_a_browser_logs_in_by_a_form_in_its_language(server):
    form = server.send("GET", "/", headers=HTML)
    assert form.status == 401
    assert "www-authenticate" not in form.headers  # the browser's own dialog would come instead of the form
    assert '<input name="password" type="password"' in form.text
    assert "密钥" in form.text
    assert 'name="username"' not in form.text  # a key needs none
    fields = {**HTML, "Content-Type": "application/x-www-form-urlencoded"}
    entered = server.send("POST", "/login", f"password={KEY}".encode(), fields)
    assert (entered.status, entered.headers["location"]) == (303, "./")
    cookie = entered.headers["set-cookie"]
    assert "httponly" in cookie.lower()
    login = {"Cookie": cookie.partition(";")[0]}
    assert server.send("GET", "/", headers=login).status == 200
    assert server.send("GET", "/logout", headers=login).status == 303
    assert server.send("GET", "/", headers=login).status == 401


def test_a_wrong_key_in_the_form_is_refused_there(server):
    fields = {**HTML, "Content-Type": "application/x-www-form-urlencoded", "X-Forwarded-For": "203.0.113.9"}
    response = server.send("POST", "/login", b"password=wrong<b>", fields)
    assert response.status == 401
    assert "用户名、密码或密钥不正确" in response.text
    assert "set-cookie" not in response.headers
    assert "wrong" not in response.text


def test_keys_are_checked_before_a_body_is_read(server):
    for path in ("/v1/images/generations", "/gradio_api/run/predict", "/gradio_api/upload", "/gradio_api/mcp/"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as connection:
            connection.sendall(
                f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                "Content-Length: 1000000\r\n\r\n".encode()
            )  # and no body
            assert connection.recv(100).startswith(b"HTTP/1.1 401")


def test_guesses_are_slowed_down_by_address(server):
    """The address is that of a client behind a proxy on this machine."""
    guesser, other = {"X-Forwarded-For": "203.0.113.7"}, {"X-Forwarded-For": "203.0.113.8"}
    statuses = [
        server.send("GET", "/v1/models", headers={**guesser, "Authorization": f"Bearer guess-{number}"}).status
        for number in range(12)
    ]
    assert statuses[:4] == [401] * 4
    assert statuses.count(429) >= 5
    refused = server.send("GET", "/v1/models", headers={**guesser, **BEARER})
    assert refused.status == 429  # the right key is not told from a wrong one while the address waits
    assert int(refused.headers["retry-after"]) >= 1
    assert server.send("GET", "/v1/models", headers={**other, **BEARER}).status == 200
    form = b"username=ann&password=guess"
    fields = {**guesser, "Content-Type": "application/x-www-form-urlencoded"}
    assert server.send("POST", "/login", form, fields).status == 429


def test_a_login_opens_page_and_api_too(tiny_folder, tmp_path):
    with run_server(tmp_path, "--model", str(tiny_folder), "--auth", "ann:secret:word", "--host", "0.0.0.0") as server:
        assert server.send("GET", "/").status == 401
        assert server.send("POST", "/gradio_api/run/predict", {"data": []}).status == 401
        assert "warning" not in server.errors.read_text(encoding="utf-8")
        fields = {"Content-Type": "application/x-www-form-urlencoded"}
        entered = server.send("POST", "/login", b"username=ann&password=secret%3Aword", fields)
        assert entered.json() == {"success": True}  # for gradio_client
        login = {"Cookie": entered.headers["set-cookie"].partition(";")[0]}
        assert server.send("GET", "/config", headers=login).status == 200
        assert 'name="username"' in server.send("GET", "/", headers=HTML).text

        from gradio_client import Client

        client = Client(f"http://127.0.0.1:{server.port}", auth=("ann", "secret:word"), verbose=False)
        assert client.predict("cat", num_inference_steps=1, api_name="/image")


def test_a_server_that_others_can_reach_warns_without_key_and_login(tiny_folder, tmp_path):
    for number, (environment, warning) in enumerate(
        [({"LANG": "en_US.UTF-8"}, "warning: everybody who can reach"), ({"LANG": "zh_CN.UTF-8"}, "警告：凡是能访问")]
    ):
        options = ("--model", str(tiny_folder), "--host", "0.0.0.0")
        with run_server(tmp_path / str(number), *options, environment=environment) as server:
            assert warning in server.errors.read_text(encoding="utf-8")


def test_a_private_server_says_nothing_of_the_kind(open_server):
    assert "warning: everybody" not in open_server.errors.read_text(encoding="utf-8")
