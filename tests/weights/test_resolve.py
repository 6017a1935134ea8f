"""A name leads to a folder, or to an error that says which names there are."""

import pytest

from dianjing.weights import registry
from dianjing.weights.checksums import verify_checksums, write_checksums
from dianjing.weights.manifest import WeightsError
from dianjing.weights.resolve import HUB_ID_PATTERN, resolve_local_model, resolve_model


def test_registry_names_are_unique_and_have_a_licence():
    names = [model_info.name for model_info in registry.MODELS]
    assert len(set(names)) == len(names)
    assert all(model_info.licence and model_info.summary for model_info in registry.MODELS)


def test_a_pinned_revision_is_a_full_commit():
    for model_info in registry.MODELS:
        assert model_info.revision is None or len(model_info.revision) == 40


def test_repositories_have_the_form_of_a_hub_id():
    for model_info in registry.MODELS:
        for repository in (model_info.repository, model_info.modelscope_repository):
            assert repository is None or HUB_ID_PATTERN.fullmatch(repository)


def test_a_local_folder_is_returned_as_it_is(tmp_path):
    assert resolve_model(tmp_path) == tmp_path


def test_a_misspelt_name_brings_the_nearest():
    with pytest.raises(WeightsError, match="did you mean 'sticker'"):
        resolve_model("stiker")


def test_a_name_like_no_other_brings_all_names():
    with pytest.raises(WeightsError, match=r"known names: sticker, hunyuan-dit-v1\.2"):
        resolve_model("zzz")


def test_a_file_is_no_model(tmp_path):
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(WeightsError, match="is a file; give the model's folder"):
        resolve_model(tmp_path / "weights.safetensors")


def test_a_model_on_a_hub_has_no_local_folder_and_no_network_is_used():
    assert resolve_local_model("someone/some-model") is None
    assert resolve_local_model("hunyuan-dit-v1.2") is None


def test_a_model_that_is_not_here_is_an_error_with_remedies(tmp_path):
    with pytest.raises(WeightsError, match=r"not on this machine.*HF_ENDPOINT.*ModelScope.*sticker"):
        resolve_model("hunyuan-dit-v1.2", cache_dir=tmp_path, local_files_only=True)


def test_checksums_find_changed_missing_and_added_files(tmp_path):
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
    differences = verify_checksums(tmp_path)
    assert len(differences) == 3
    assert {difference.split()[0] for difference in differences} == {"a", "b", "d"}
