"""A name leads to a folder, or to an error that says what names there are."""

import pytest

from dianjing.weights import registry
from dianjing.weights.checksums import verify_checksums, write_checksums
from dianjing.weights.manifest import WeightsError
from dianjing.weights.resolve import resolve_local_model, resolve_model


def test_registry_names_are_unique_and_say_their_licence():
    names = [entry.name for entry in registry.MODELS]
    assert len(set(names)) == len(names)
    assert all(entry.licence and entry.summary for entry in registry.MODELS)


def test_a_pinned_revision_is_a_whole_commit():
    for entry in registry.MODELS:
        assert entry.revision is None or len(entry.revision) == 40


def test_a_local_folder_is_itself(tmp_path):
    assert resolve_model(tmp_path) == tmp_path


def test_a_misspelt_name_brings_the_nearest():
    with pytest.raises(WeightsError, match="did you mean 'sticker'"):
        resolve_model("stiker")


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(WeightsError, match="is a file; give the model's folder"):
        resolve_model(tmp_path / "weights.safetensors")


def test_a_model_on_the_hub_has_no_local_folder_and_no_network_is_touched():
    assert resolve_local_model("someone/some-model") is None
    assert resolve_local_model("hunyuan-dit-v1.2") is None


def test_a_model_that_is_not_here_is_an_error_with_ways_out(tmp_path):
    with pytest.raises(WeightsError, match="not on this machine"):
        resolve_model("hunyuan-dit-v1.2", cache_dir=tmp_path, local_files_only=True)


def test_sums_find_changed_missing_and_added_files(tmp_path):
    for name in ("a", "b", "sub/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    write_checksums(tmp_path)
    assert verify_checksums(tmp_path) == []
    (tmp_path / "README.md").write_text("a card may change")
    assert verify_checksums(tmp_path) == []
    (tmp_path / "a").write_text("changed")
    (tmp_path / "b").unlink()
    (tmp_path / "d").touch()
    faults = verify_checksums(tmp_path)
    assert len(faults) == 3
    assert {fault.split()[0] for fault in faults} == {"a", "b", "d"}
