"""The page opens a visitor's own uploads and nothing else, whatever an event or an address names."""

import io
import itertools
import secrets
import socket
from urllib.parse import quote

import pytest
from PIL import Image

from dianjing.pipelines.media.image import save_image
from dianjing.pipelines.media.metadata import GenerationMetadata
from tests.demo.security.conftest import TIMEOUT_S

pytestmark = pytest.mark.timeout(600)  # the machine may be busy

SECRET_PROMPT = "the secret prompt"
BAIT = "bait-of-the-test"  # in every path and host name that an attack names
META = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def secret_folder(tmp_path_factory):
    """Files of the server's user: a picture with settings, a conversation, and a text."""
    folder = tmp_path_factory.mktemp(BAIT)
    metadata = GenerationMetadata(prompt=SECRET_PROMPT, seed=3, settings={}, model="sticker", version="0")
    save_image(Image.new("RGB", (64, 48), (1, 2, 3)), folder / "secret.png", metadata, label=None)
    (folder / "secret.json").write_text('{"format": "dianjing conversation 1"}')
    (folder / "secret.txt").write_text(SECRET_PROMPT)
    return folder


@pytest.fixture(scope="module")
def paths(open_server, secret_folder):
    """Paths and addresses that no event may touch, by kind."""
    server, secret = open_server, secret_folder / "secret.png"
    link = server.temporary_folder / f"{BAIT}-link.png"
    link.symlink_to(secret)
    cache = next(server.temporary_folder.glob("dianjing-*/gradio"))
    linked_in_cache = cache / ("0" * 64) / f"{BAIT}-link.png"
    linked_in_cache.parent.mkdir()
    linked_in_cache.symlink_to(secret)
    uploads = next(cache.glob("uploads-*"))
    return {
        "absolute": str(secret),
        "conversation": str(secret_folder / "secret.json"),
        "missing": str(secret_folder / "missing.png"),
        "relative": f"../../{secret_folder.name}/secret.png",
        "relative in its folder": f"{BAIT}.png",
        "linked": str(link),
        "linked in the cache": str(linked_in_cache),
        "out of the cache": f"{cache}/../../../{secret_folder.name}/secret.png",
        "out of the uploads": f"{uploads}/../../../../{secret_folder.name}/secret.png",
        "reference with a path": f"upload-{'a' * 43}/../../{secret_folder.name}/secret.png",
        "unknown reference": f"upload-{'a' * 43}/{BAIT}.png",
        "http": f"http://{BAIT}.invalid/secret.png",
        "https": f"https://{BAIT}.invalid/secret.png",
        "ftp": f"ftp://{BAIT}.invalid/secret.png",
        "file": f"file://{secret}",
        "file on a host": f"file://{BAIT}.invalid/secret.png",
        "unc": f"\\\\{BAIT}.invalid\\secret.png",
        "cloud": f"hf://{BAIT}/secret.png",
        "zero": "/dev/zero",
        "stdin": "/dev/stdin",
        "descriptor": "/proc/self/fd/0",
        "environment": "/proc/self/environ",
        "zero by way of the bait": f"/dev/{BAIT}/../zero",
        "NUL": f"/{BAIT}\0.png",
        "long": f"/{BAIT}" * 2000,
    }


def read_new_audit_lines(server, start):
    return server.audit_log.read_bytes()[start:].decode(errors="replace").splitlines()


def assert_untouched(server, start):
    """No line of the audit log since `start` names a bait, a device or a process file; nothing was looked up."""
    lines = read_new_audit_lines(server, start)
    forbidden = (BAIT, "/dev/zero", "/dev/stdin", "/proc/self/fd/0", "environ", "getaddrinfo", "gethostby")
    assert [line for line in lines if any(part in line for part in forbidden)] == []


def assert_nothing_copied(server, secret_folder):
    content = (secret_folder / "secret.png").read_bytes()
    for file in server.temporary_folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            assert file.read_bytes() != content


def get_payloads(path):
    """A path in every form that Gradio, or one of its components, could take for a file."""
    return [
        {"path": path, "meta": META},
        {"path": path, "url": path, "orig_name": "a.png", "meta": META},
        {"path": path},
        {"url": path, "meta": META},
        {"path": path, "meta": META, "is_stream": True},
        [{"path": path, "meta": META}],
        {"value": {"path": path, "meta": META}},
        [[{"image": {"path": path, "meta": META}}]],
        {"background": {"path": path, "meta": META}, "layers": [], "composite": None},
    ]


def test_no_event_touches_what_a_path_names(open_server, secret_folder, paths):
    server, visitor = open_server, open_server.make_visitor()
    events = server.get_events()
    assert len(events) > 40
    start = server.audit_log.stat().st_size
    for event in events:
        count = len(event["inputs"])
        if not count:
            continue
        answers = {}
        for kind, path in paths.items():
            response = server.call(event["id"], [{"path": path, "meta": META}] * count, visitor)
            assert 400 <= response.status < 500, (event["id"], kind)
            answers[kind] = response.body
        assert len(set(answers.values())) == 1, "an answer tells one path from another"
        assert b"secret" not in answers["absolute"]
    assert_untouched(server, start)
    assert_nothing_copied(server, secret_folder)


def test_no_single_input_of_any_event_takes_a_file_in_any_form(open_server, secret_folder, paths):
    server = open_server
    start = server.audit_log.stat().st_size
    for event in server.get_events():
        count = len(event["inputs"])
        for index, payload in itertools.product(range(count), get_payloads(paths["absolute"])):
            data = [None] * count
            data[index] = payload
            assert 400 <= server.call(event["id"], data).status < 500
    assert_untouched(server, start)
    assert_nothing_copied(server, secret_folder)


def test_no_event_touches_a_file_by_way_of_the_queue(open_server, secret_folder, paths):
    server = open_server
    start = server.audit_log.stat().st_size
    for event in server.get_events():
        count = len(event["inputs"])
        for kind in ("absolute", "zero", "http") if count else ():
            data = [{"path": paths[kind], "meta": META}] * count
            messages = server.join(event["id"], data, f"session-{secrets.token_hex(4)}")
            assert '"success":true' not in messages, event["id"]
            assert "Traceback" not in messages
    assert_untouched(server, start)
    assert_nothing_copied(server, secret_folder)


def test_no_named_endpoint_touches_a_file(open_server, paths):
    server = open_server
    start = server.audit_log.stat().st_size
    names = [event["api_name"] for event in server.get_events() if event["api_visibility"] == "public"]
    assert set(names) == {"image", "mask", "edit", "variations", "animate", "video", "chat"}
    for name, kind in itertools.product(names, ("absolute", "zero", "http", "environment")):
        for payload in get_payloads(paths[kind])[:3]:
            for route in ("run", "api", "call"):
                server.send("POST", f"/gradio_api/{route}/{name}", {"data": [payload] * 9})
            server.send("POST", f"/gradio_api/call/v2/{name}", {"prompt": payload, "image": payload})
    assert server.send("GET", "/healthz").status == 200
    assert_untouched(server, start)


def test_no_address_of_the_server_reads_a_file_or_fetches(open_server, paths):
    server = open_server
    cached = next(server.temporary_folder.glob("dianjing-*/gradio"))
    prefixes = ["/gradio_api/file=", "/gradio_api/file/", "/file=", "/proxy=", "/gradio_api/proxy=", "/static/"]
    prefixes += ["/assets/", "/svelte/", "/gradio_api/custom_component/", "/gradio_api/stream/"]
    prefixes += [f"/gradio_api/file={cached}/", "//gradio_api/file=", "/gradio_api/deep_link?session_hash="]
    start = server.audit_log.stat().st_size
    names = set(paths) - {"relative in its folder", "unknown reference"}  # missing files of the page's own assets
    for prefix, path in itertools.product(prefixes, (paths[name] for name in names)):
        for method in ("GET", "HEAD"):
            response = server.send(method, prefix + quote(path[:1000], safe="/:=.\\"))
            assert response.status >= 400, (prefix, path)
            assert SECRET_PROMPT not in response.text
    assert_untouched(server, start)


def test_the_answers_for_a_file_of_the_server_and_a_missing_one_are_equal(open_server, paths):
    answers = {
        open_server.send("GET", f"/gradio_api/file={quote(paths[kind])}").body
        for kind in ("absolute", "missing", "linked", "linked in the cache", "zero", "unknown reference")
    }
    assert len(answers) == 1


UNNEEDED = [
    ("POST", "/gradio_api/component_server", {"data": "/", "component_id": 1, "session_hash": "a", "fn_name": "ls"}),
    ("POST", "/gradio_api/process_recording", {}),
    ("POST", "/gradio_api/vibe-edit", {"prompt": "a"}),
    ("GET", "/gradio_api/vibe-code", None),
    ("POST", "/gradio_api/vibe-code", {"code": "a"}),
    ("GET", "/gradio_api/dev/reload", None),
    ("GET", "/gradio_api/deep_link?session_hash=session", None),
    ("GET", "/?deep_link=../../../etc", None),
    ("GET", "/monitoring", None),
    ("GET", "/monitoring/summary", None),
    ("GET", "/gradio_api/run-history/buckets", None),
    ("GET", "/gradio_api/runs", None),
    ("POST", "/gradio_api/stream/event", {"data": []}),
    ("GET", "/gradio_api/profiling/summary", None),
    ("GET", "/pwa_icon", None),
    ("GET", "/gradio_api/token", None),
]


@pytest.mark.parametrize(("method", "path", "body"), UNNEEDED, ids=[entry[1] for entry in UNNEEDED])
def test_routes_that_the_page_does_not_need_are_closed(open_server, method, path, body):
    response = open_server.send(method, path, body, {"Accept-Language": "zh-CN"})
    if path.startswith("/?"):
        assert response.status == 200  # the page itself; what is behind the question mark is ignored
        return
    assert response.status == 404
    assert response.json()["error"]["message"].startswith("此服务器没有这个地址")


def make_picture(color=(9, 9, 9)):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), color).save(buffer, "PNG")
    return buffer.getvalue()


def animate_upload(server, reference, headers=None):
    """Send the event that takes the picture to animate, as the page does after an upload."""
    config = server.send("GET", "/config").json()
    picture = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "animate-picture")
    event = next(event for event in config["dependencies"] if [picture, "upload"] in event["targets"])
    data = [{"path": reference, "meta": META} if each == picture else None for each in event["inputs"]]
    return server.call(event["id"], data, headers)


def test_an_upload_is_for_its_visitor_alone(open_server):
    server = open_server
    owner, other = server.make_visitor(), server.make_visitor()
    assert owner != other
    [reference] = server.upload(make_picture(), headers=owner).json()
    assert str(server.temporary_folder) not in reference
    address = f"/gradio_api/file={reference}"
    for stranger in (other, None):
        assert animate_upload(server, reference, stranger).status >= 400
        assert server.send("GET", address, headers=stranger).status == 404
    assert server.send("GET", address, headers=owner).body == make_picture()
    response = animate_upload(server, reference, owner)
    assert response.status == 200
    assert "/image.png" in response.text  # the picture with its regions


def test_a_client_without_cookies_keeps_its_uploads_by_its_address(open_server):
    [reference] = open_server.upload(make_picture()).json()
    assert animate_upload(open_server, reference).status == 200


@pytest.mark.parametrize(
    "name", ["../../evil.png", "/etc/evil.png", "a\\..\\evil.png", "<img onerror=x>.png", "x" * 3000]
)
def test_the_name_of_an_upload_is_cut_to_harmless_characters(open_server, name):
    [reference] = open_server.upload(make_picture(), name=name).json()
    _, _, stored = reference.partition("/")
    assert "/" not in stored
    assert not set(stored) & set("<>\\\"'&")
    assert len(stored) < 100
    assert open_server.send("GET", f"/gradio_api/file={quote(reference)}").body == make_picture()


def test_uploaded_pages_and_drawings_are_downloads_only(open_server):
    for name in ("page.html", "drawing.svg", "script.js", "noname"):
        [reference] = open_server.upload(b"<script>alert(1)</script>", name=name).json()
        headers = open_server.send("GET", f"/gradio_api/file={reference}").headers
        assert headers["content-type"] == "application/octet-stream"
        assert headers["content-disposition"].startswith("attachment")


def test_the_files_of_a_server_lie_in_folders_that_its_user_alone_may_read(open_server):
    [folder] = open_server.temporary_folder.glob("dianjing-*")
    assert folder.stat().st_mode & 0o077 == 0
    assert len(list(folder.iterdir())) >= 3  # results, sessions, and Gradio's


def test_the_audit_log_sees_files_and_look_ups(open_server):
    """The hook itself works: the server's start has opened files, and an upload writes one."""
    start = open_server.audit_log.stat().st_size
    assert "open" in open_server.audit_log.read_text(errors="replace")
    open_server.upload(make_picture(), name="seen-by-the-hook.png")
    assert any("seen-by-the-hook" in line for line in read_new_audit_lines(open_server, start))


def test_a_request_that_stops_half_way_holds_up_nobody(open_server):
    with socket.create_connection(("127.0.0.1", open_server.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(b"POST /gradio_api/run/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{")
        assert open_server.send("GET", "/healthz").status == 200
