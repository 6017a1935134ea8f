"""A name leads to a folder, or to an error that says what names there are."""

import pytest

from dianjing.weights import registry
from dianjing.weights.fetching import find_folder, local_folder
from dianjing.weights.folder import WeightsError
from dianjing.weights.sums import check_sums, write_sums


def test_registry_names_are_unique_and_say_their_licence():
    names = [entry.name for entry in registry.ENTRIES]
    assert len(set(names)) == len(names)
    assert all(entry.licence and entry.summary for entry in registry.ENTRIES)


def test_a_pinned_revision_is_a_whole_commit():
    for entry in registry.ENTRIES:
        assert entry.revision is None or len(entry.revision) == 40


def test_a_local_folder_is_itself(tmp_path):
    assert find_folder(tmp_path) == tmp_path


def test_a_misspelt_name_brings_the_nearest():
    with pytest.raises(WeightsError, match="did you mean 'sticker'"):
        find_folder("stiker")


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(WeightsError, match="is a file; give the model's folder"):
        find_folder(tmp_path / "weights.safetensors")


def test_a_model_on_the_hub_has_no_local_folder_and_no_network_is_touched():
    assert local_folder("someone/some-model") is None
    assert local_folder("hunyuan-dit-v1.2") is None


def test_a_model_that_is_not_here_is_an_error_with_ways_out(tmp_path):
    with pytest.raises(WeightsError, match="not on this machine"):
        find_folder("hunyuan-dit-v1.2", cache_dir=tmp_path, local_files_only=True)


def test_sums_find_changed_missing_and_added_files(tmp_path):
    for name in ("a", "b", "sub/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    write_sums(tmp_path)
    assert check_sums(tmp_path) == []
    (tmp_path / "README.md").write_text("a card may change")
    assert check_sums(tmp_path) == []
    (tmp_path / "a").write_text("changed")
    (tmp_path / "b").unlink()
    (tmp_path / "d").touch()
    faults = check_sums(tmp_path)
    assert len(faults) == 3
    assert {fault.split()[0] for fault in faults} == {"a", "b", "d"}
