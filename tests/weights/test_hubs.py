"""Models come from the hub that is asked for; no test leaves this machine."""

import hashlib
import inspect
import json
import os
import subprocess
import sys
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from threading import Thread

import pytest

from dianjing.errors import DianjingError
from dianjing.weights import registry
from dianjing.weights.hubs import ALLOW_PATTERNS, VARIANT_PATTERNS, get_model_source
from dianjing.weights.manifest import WeightsError
from dianjing.weights.resolve import resolve_model

COMMIT = "0123456789" * 4
FILES = {"model_index.json": b"{}", "vae/config.json": b'{"a": 1}', "run.py": b"raise SystemExit"}


class HubError(Exception):
    pass


@pytest.fixture
def modelscope(monkeypatch, tmp_path):
    """A stand-in for the package modelscope; yields the calls of its snapshot_download."""
    calls = []

    def snapshot_download(model_id, **options):
        calls.append((model_id, options))
        if model_id == "someone/absent":
            raise HubError("[E3001] no such repository\ndetails")
        return str(tmp_path)

    modules = {name: types.ModuleType(name) for name in ("modelscope", "modelscope.hub")}
    errors = types.ModuleType("modelscope.hub.errors")
    download = types.ModuleType("modelscope.hub.snapshot_download")
    errors.HubError, download.snapshot_download = HubError, snapshot_download
    for name, module in {**modules, errors.__name__: errors, download.__name__: download}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def test_modelscope_gets_its_repository_of_a_registry_name_and_no_commit_of_another_hub(modelscope, tmp_path):
    assert resolve_model("hunyuan-dit-v1.2", source="modelscope") == tmp_path
    ((repository, options),) = modelscope
    assert repository == registry.get_model_info("hunyuan-dit-v1.2").modelscope_repository
    assert options["revision"] is None
    assert options["allow_patterns"] == ALLOW_PATTERNS
    assert options["ignore_patterns"] == VARIANT_PATTERNS


def test_modelscope_gets_any_other_repository_and_revision_as_they_are(modelscope):
    resolve_model("someone/some-model", source="modelscope", revision="v2", variant="fp16", token="secret")
    ((repository, options),) = modelscope
    assert repository == "someone/some-model"
    assert (options["revision"], options["token"], options["ignore_patterns"]) == ("v2", "secret", None)


def test_the_environment_names_the_source_where_no_argument_does(modelscope, monkeypatch):
    monkeypatch.setenv("DIANJING_SOURCE", "modelscope")
    resolve_model("someone/some-model")
    assert [repository for repository, _ in modelscope] == ["someone/some-model"]
    assert get_model_source("huggingface") == "huggingface"
    monkeypatch.delenv("DIANJING_SOURCE")
    assert get_model_source() == "huggingface"


def test_an_unknown_source_is_refused_with_the_known_ones():
    with pytest.raises(DianjingError, match="'github' is unknown; choose one of huggingface, modelscope"):
        resolve_model("someone/some-model", source="github")


def test_a_local_folder_and_a_bundle_need_no_source(modelscope, tmp_path):
    assert resolve_model(tmp_path, source="modelscope") == tmp_path
    assert resolve_model("sticker", source="modelscope") == registry.get_model_info("sticker").bundled_folder
    assert modelscope == []


def test_a_name_that_modelscope_lacks_is_an_error_with_remedies(modelscope):
    with pytest.raises(WeightsError, match=r"'hunyuan-dit-v1.1'; give one as owner/name.*HF_ENDPOINT"):
        resolve_model("hunyuan-dit-v1.1", source="modelscope")


def test_a_failed_download_is_an_error_with_the_first_line_of_its_reason(modelscope):
    with pytest.raises(WeightsError, match=r"someone/absent cannot be downloaded \(\[E3001\] no such repository\)"):
        resolve_model("someone/absent", source="modelscope")


def test_without_the_package_modelscope_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(DianjingError, match=r"dianjing\[modelscope\]"):
        resolve_model("someone/some-model", source="modelscope")


def test_the_package_modelscope_takes_the_arguments_that_it_gets(modelscope):
    resolve_model("someone/some-model", source="modelscope")
    ((repository, options),) = modelscope
    for name in [name for name in sys.modules if name.split(".")[0] == "modelscope"]:
        del sys.modules[name]
    package = import_module("modelscope.hub.snapshot_download")
    inspect.signature(package.snapshot_download).bind(repository, **options)


def get_etag(name: str) -> str:
    return hashlib.sha1(FILES.get(name, b"")).hexdigest()


class MirrorHandler(BaseHTTPRequestHandler):
    """The part of the Hugging Face Hub's HTTP interface that a download uses, for one repository."""

    def do_HEAD(self):
        self._answer(has_body=False)

    def do_GET(self):
        self._answer(has_body=True)

    def _answer(self, *, has_body: bool):
        self.server.paths.append(self.path)
        name = self.path.partition(f"/resolve/{COMMIT}/")[2]
        if self.path.startswith("/api/models/someone/some-model/tree/"):
            entries = [
                {"type": "file", "path": each, "size": len(FILES[each]), "oid": get_etag(each)} for each in FILES
            ]
            body, status = json.dumps(entries).encode(), 200
        elif self.path.startswith("/api/models/someone/some-model"):
            siblings = [{"rfilename": each} for each in FILES]
            body, status = json.dumps({"id": "someone/some-model", "sha": COMMIT, "siblings": siblings}).encode(), 200
        else:
            body, status = (FILES[name], 200) if name in FILES else (b"", 404)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{get_etag(name)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if has_body:
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def mirror():
    server = ThreadingHTTPServer(("127.0.0.1", 0), MirrorHandler)
    server.paths = []
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def download_in_new_process(endpoint: str, cache_dir) -> subprocess.CompletedProcess:
    """Resolve a model in a process of its own: huggingface_hub reads its endpoint when it is imported."""
    code = (
        "import sys; from dianjing.weights.resolve import resolve_model\n"
        "from dianjing.errors import DianjingError\n"
        "try: print(resolve_model('someone/some-model', cache_dir=sys.argv[1]))\n"
        "except DianjingError as error: print(error.message_id, error)"
    )
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", code, str(cache_dir)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_hf_endpoint_is_the_mirror_that_models_come_from_without_their_code(mirror, tmp_path):
    endpoint = f"http://127.0.0.1:{mirror.server_address[1]}"
    result = download_in_new_process(endpoint, tmp_path)
    folder = tmp_path / "models--someone--some-model" / "snapshots" / COMMIT
    assert result.stdout.strip() == str(folder), result.stderr
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == set(FILES) - {
        "run.py"
    }
    assert any("model_index.json" in path for path in mirror.paths)


def test_a_mirror_that_cannot_be_reached_is_named_with_remedies(tmp_path):
    result = download_in_new_process("http://127.0.0.1:9", tmp_path)
    assert result.stdout.startswith("model_not_local someone/some-model is not on this machine")
    assert "http://127.0.0.1:9 cannot be reached" in result.stdout
    assert "HF_ENDPOINT" in result.stdout
    assert "modelscope" in result.stdout
