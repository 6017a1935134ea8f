"""The doctor finds what is broken and says what to do."""

import importlib.metadata
import json

import pytest

from dianjing.cli import doctor_checks
from dianjing.weights import registry
from dianjing.weights.checksums import write_checksums


def finding(what, findings=None):
    return next(f for f in (findings or doctor_checks.run_checks()) if f.name == what)


@pytest.fixture
def bundle(monkeypatch, tmp_path):
    """An embedded bundle of one file in the place of the real one."""
    (tmp_path / "sticker").mkdir()
    (tmp_path / "sticker" / "model_index.json").write_text(json.dumps({"_class_name": "TextToImagePipeline"}))
    write_checksums(tmp_path / "sticker")
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "registry.py"))
    return tmp_path / "sticker"


def test_the_report_covers_libraries_machine_device_and_places():
    seen = {f.name for f in doctor_checks.run_checks()}
    assert {"dianjing", "torch", "diffusers", "machine", "attention", "sticker", "model cache"} <= seen


def test_a_missing_library_is_broken(monkeypatch):
    def version(name):
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError
        return "1"

    monkeypatch.setattr(doctor_checks.importlib.metadata, "version", version)
    assert finding("peft").status == "error"
    assert "pip install peft" in finding("peft").detail


def test_a_sound_bundle_is_ok(bundle):
    assert finding("sticker").status == "ok"


def test_a_changed_bundle_is_broken(bundle):
    (bundle / "model_index.json").write_text(json.dumps({"_class_name": "Other"}))
    assert finding("sticker").status == "error"
    assert "differs" in finding("sticker").detail


def test_a_missing_bundle_is_broken(bundle):
    (bundle / "model_index.json").unlink()
    assert finding("sticker").status == "error"


def test_a_read_only_cache_is_noted_with_a_way_out(monkeypatch):
    monkeypatch.setattr(doctor_checks.os, "access", lambda *_: False)
    assert finding("model cache").status == "warning"
    assert "HF_HOME" in finding("model cache").detail


def test_an_unused_gpu_is_noted(monkeypatch):
    monkeypatch.setattr(doctor_checks.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert finding("device").status == "warning"
