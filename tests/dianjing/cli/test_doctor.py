"""`dianjing doctor` finds errors and says what to do."""

import importlib.metadata
import json

import pytest

from dianjing.cli import doctor_checks
from dianjing.cli.doctor import doctor
from dianjing.weights import registry
from dianjing.weights.checksums import write_checksums


def get_result(name):
    return next(result for result in doctor_checks.run_checks() if str(result.name) == name)


@pytest.fixture
def bundle(monkeypatch, tmp_path):
    """A bundle of one file instead of the real one."""
    (tmp_path / "sticker").mkdir()
    (tmp_path / "sticker" / "model_index.json").write_text(json.dumps({"_class_name": "TextToImagePipeline"}))
    write_checksums(tmp_path / "sticker")
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "registry.py"))
    return tmp_path / "sticker"


def test_the_report_covers_libraries_machine_device_and_folders():
    names = {str(result.name) for result in doctor_checks.run_checks()}
    assert {"dianjing", "torch", "diffusers", "machine", "attention", "sticker", "model cache"} <= names


def test_a_missing_library_is_an_error(monkeypatch):
    def version(name):
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError
        return "1"

    monkeypatch.setattr(doctor_checks.importlib.metadata, "version", version)
    assert get_result("peft").status == "error"
    assert "pip install peft" in str(get_result("peft").detail)


def test_a_sound_bundle_is_ok(bundle):
    assert get_result("sticker").status == "ok"


def test_a_changed_bundle_is_an_error(bundle):
    (bundle / "model_index.json").write_text(json.dumps({"_class_name": "Other"}))
    assert get_result("sticker").status == "error"
    assert "differs" in str(get_result("sticker").detail)


def test_a_missing_bundle_is_an_error(bundle):
    (bundle / "model_index.json").unlink()
    assert get_result("sticker").status == "error"


def test_a_read_only_cache_is_a_warning_with_advice(monkeypatch):
    monkeypatch.setattr(doctor_checks.os, "access", lambda *_: False)
    assert get_result("model cache").status == "warning"
    assert "HF_HOME" in str(get_result("model cache").detail)


def test_an_unused_gpu_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor_checks.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert get_result("device").status == "warning"


def test_the_report_is_in_the_language_of_the_user(capsys, monkeypatch):
    monkeypatch.setenv("DIANJING_LANG", "zh")
    doctor()
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("正常", "警告")) for line in lines)
    assert any("CPU 核" in line for line in lines)
    widths = {sum(2 if "\u4e00" <= char <= "\u9fff" else 1 for char in line[: line.index("2.")]) for line in lines[1:2]}
    assert widths == {28}  # the columns are aligned for characters of two columns


def test_json_of_the_report_is_the_same_in_every_language(capsys, monkeypatch):
    reports = []
    for language in ("en", "zh"):
        monkeypatch.setenv("DIANJING_LANG", language)
        doctor(as_json=True)
        reports.append([(each["status"], each["name"]) for each in json.loads(capsys.readouterr().out)])
    assert reports[0] == reports[1]
