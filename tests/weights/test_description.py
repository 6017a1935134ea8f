"""Descriptions of models: by the registry, or by what a folder says of itself; never with a path."""

import json

from dianjing.weights.description import describe_model
from dianjing.weights.image_sizes import read_default_size_px
from dianjing.weights.registry import HUNYUAN_SIZES, get_finetune_defaults, get_model_info


def test_a_registered_model_is_described_by_its_entry_under_any_of_its_names():
    assert describe_model("sticker").licence == "Apache-2.0"
    repository = get_model_info("hunyuan-dit-v1.2").repository
    assert describe_model(repository).trained_sizes == HUNYUAN_SIZES
    folder = get_model_info("sticker").bundled_folder
    side_px = read_default_size_px(folder)  # as its configurations say
    assert describe_model("sticker").trained_sizes == ((side_px, side_px),)
    assert get_finetune_defaults("sticker").size_px == side_px
    bundle = describe_model(str(folder))
    assert (bundle.name, bundle.licence) == ("sticker", "Apache-2.0")


def test_a_folder_is_described_by_its_index_and_model_card_without_its_path(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model_index.json").write_text(json.dumps({"trained_sizes": [[96, 64], "wide", [0, 64]]}))
    assert describe_model(str(folder)).licence is None
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: my-licence\n---\n\n# Mine\n")
    description = describe_model(str(folder))
    assert (description.name, description.licence) == ("mine", "my-licence")
    assert description.trained_sizes == ((96, 64),)
