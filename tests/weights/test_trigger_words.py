"""Trigger words in the metadata of adapters."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dianjing.weights.trigger_words import read_trigger_words, write_trigger_words


@pytest.fixture
def adapter(tmp_path):
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({"a": torch.ones(2)}, path, metadata={"format": "pt", "lora_adapter_metadata": "{}"})
    return path


def test_words_are_added_to_the_other_metadata_and_read_from_file_and_folder(adapter):
    write_trigger_words(adapter, ["momo", "毛毛"])
    with safe_open(adapter, framework="pt") as file:
        assert file.metadata()["lora_adapter_metadata"] == "{}"
        assert torch.equal(file.get_tensor("a"), torch.ones(2))
    assert read_trigger_words(adapter) == read_trigger_words(adapter.parent) == ("momo", "毛毛")


def test_tags_of_sd_scripts_are_read(tmp_path):
    path = tmp_path / "theirs.safetensors"
    tags = {"10_momo": {"momo": 12, "on a beach": 3}, "5_other": {"momo": 1}}
    save_file({"a": torch.ones(2)}, path, metadata={"ss_tag_frequency": json.dumps(tags)})
    assert read_trigger_words(path) == ("momo", "on a beach")


@pytest.mark.parametrize("metadata", [{}, {"ss_tag_frequency": "no json"}, {"ss_tag_frequency": "[1]"}])
def test_file_without_readable_words_has_none(tmp_path, metadata):
    path = tmp_path / "theirs.safetensors"
    save_file({"a": torch.ones(2)}, path, metadata=metadata or None)
    assert read_trigger_words(path) == ()


def test_source_that_is_no_adapter_has_none(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    assert read_trigger_words(tmp_path / "broken.safetensors") == ()
    assert read_trigger_words(tmp_path / "missing") == ()
    assert read_trigger_words("owner/never-loaded") == ()
