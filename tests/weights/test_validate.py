"""A folder that is not what its index says is refused, and the error names the tensor or the file."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from dianjing.weights import validate
from dianjing.weights.manifest import WeightsError, read_tensor_shapes
from dianjing.weights.validate import validate_model

DIT = "transformer/diffusion_pytorch_model.safetensors"
BERT = "text_encoder/model.safetensors"


@pytest.fixture
def folder(pristine_folder, tmp_path):
    return shutil.copytree(pristine_folder, tmp_path / "model")


def rewrite(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def rewrite_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_refused(folder, match):
    with pytest.raises(WeightsError, match=match):
        validate_model(folder)


def test_a_sound_folder_passes(folder):
    validate_model(folder)


def test_weights_are_read_once_as_long_as_their_files_are_unchanged(folder, monkeypatch):
    read = []
    safe_open = validate.safe_open
    monkeypatch.setattr(validate, "safe_open", lambda path, **options: read.append(path) or safe_open(path, **options))
    validate_model(folder)
    assert len(read) == len(set(read)) == 4
    read.clear()
    validate_model(folder)
    validate_model(folder / ".." / folder.name)
    assert read == []
    rewrite(folder / DIT, lambda tensors: tensors.update({"proj_out.bias": torch.full((32,), torch.nan)}))
    assert_refused(folder, r"transformer .* hold NaN or infinity in proj_out\.bias")
    assert_refused(folder, r"transformer .* hold NaN or infinity in proj_out\.bias")
    assert read == [folder / DIT] * 2


def test_a_config_that_changes_is_checked_against_the_weights_again(folder):
    validate_model(folder)
    rewrite_json(folder / "transformer/config.json", num_layers=4)
    assert_refused(folder, r"transformer .* lack \d+ tensors")


def test_a_header_gives_the_shapes(folder):
    shapes = read_tensor_shapes(folder / DIT)
    tensors = load_file(folder / DIT)
    assert shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_a_missing_tensor_is_named(folder):
    rewrite(folder / DIT, lambda tensors: tensors.pop("blocks.1.attn1.to_q.weight"))
    assert_refused(folder, r"transformer .* lack 1 tensors; .*: blocks\.1\.attn1\.to_q\.weight")


def test_a_surplus_tensor_is_named(folder):
    rewrite(folder / BERT, lambda tensors: tensors.update(stowaway=torch.zeros(1)))
    assert_refused(folder, r"text_encoder .* hold 1 tensors .* stowaway")


def test_a_wrong_shape_is_named_with_both_shapes(folder):
    rewrite(folder / DIT, lambda tensors: tensors.update({"proj_out.bias": torch.zeros(5)}))
    assert_refused(folder, r"proj_out\.bias is \(5,\), not \(32,\)")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_named(folder, value):
    def spoil(tensors):
        tensors["encoder.conv_in.weight"][0, 0, 0, 0] = value

    rewrite(folder / "vae/diffusion_pytorch_model.safetensors", spoil)
    assert_refused(folder, r"vae .* hold NaN or infinity in encoder\.conv_in\.weight")


def test_many_bad_names_are_counted_and_not_all_listed(folder):
    def strip(tensors):
        for name in [name for name in tensors if name.startswith("blocks.")]:
            del tensors[name]

    rewrite(folder / DIT, strip)
    assert_refused(folder, r"and \d+ more$")


def test_either_name_of_tied_weights_is_enough(folder):
    path = folder / "text_encoder_2/model.safetensors"

    def rename(tensors):
        name = "shared.weight" if "shared.weight" in tensors else "encoder.embed_tokens.weight"
        other = {"shared.weight": "encoder.embed_tokens.weight"}.get(name, "shared.weight")
        tensors[other] = tensors.pop(name)

    rewrite(path, rename)
    validate_model(folder)


def test_names_that_older_releases_wrote_are_known(folder):
    path = folder / "vae/diffusion_pytorch_model.safetensors"

    def age(tensors):
        for name in [name for name in tensors if ".attentions.0.to_q." in name]:
            tensors[name.replace("to_q", "query")] = tensors.pop(name)

    rewrite(path, age)
    assert any(".query." in name for name in read_tensor_shapes(path))
    validate_model(folder)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_pickle_named_safetensors_is_refused_unopened(folder, protocol):
    (folder / DIT).write_bytes(pickle.dumps(Bomb(), protocol=protocol))
    assert_refused(folder, "is a pickle by another name")


def test_a_torch_archive_named_safetensors_is_refused_unopened(folder):
    torch.save({"weight": torch.zeros(1)}, folder / DIT)
    assert_refused(folder, "is a pickle by another name")


def test_a_header_as_long_as_a_pickle_magic_is_no_pickle(tmp_path):
    """The length 0x280 begins with the same two bytes as a pickle of protocol 2."""
    header = json.dumps({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}})
    raw = header.ljust(0x280).encode()
    (tmp_path / "x.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + b"\0")
    assert read_tensor_shapes(tmp_path / "x.safetensors") == {"x": (1,)}


def test_weights_that_exist_only_as_pickle_are_refused(folder):
    (folder / BERT).unlink()
    torch.save({}, folder / "text_encoder/pytorch_model.bin")
    assert_refused(folder, r"only as pickle \(pytorch_model\.bin\)")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not a safetensors file"),
        (b"\x10", "is not a safetensors file"),
        (b"<html>not found</html>", "is not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ((2**63).to_bytes(8, "little") + b"{}", "is not a safetensors file"),
        ((3).to_bytes(8, "little") + b"{x}", "damaged header"),
        ((8).to_bytes(8, "little") + b'{"a": 1}', "damaged header"),
    ],
)
def test_a_file_that_is_something_else_is_refused(folder, content, reason):
    (folder / DIT).write_bytes(content)
    assert_refused(folder, reason)


def test_a_file_that_is_cut_off_is_refused(folder):
    content = (folder / DIT).read_bytes()
    (folder / DIT).write_bytes(content[:-10])
    assert_refused(folder, "cut off or damaged")


@pytest.mark.parametrize("name", ["transformer/config.json", "text_encoder/config.json"])
@pytest.mark.parametrize("key", ["auto_map", "trust_remote_code"])
def test_a_config_that_brings_code_is_refused(folder, name, key):
    rewrite_json(folder / name, **{key: {"AutoModel": "evil.Model"}})
    assert_refused(folder, rf"asks for its own code to be run \({key}\)")


def test_a_pipeline_class_of_its_own_is_refused(folder):
    rewrite_json(folder / "model_index.json", _class_name=["evil", "Pipeline"])
    assert_refused(folder, "names no standard pipeline class")


def test_a_component_from_another_library_is_refused(folder):
    rewrite_json(folder / "model_index.json", vae=["os", "system"])
    assert_refused(folder, "takes vae from os, system;")


def test_a_class_that_the_library_lacks_is_refused(folder):
    rewrite_json(folder / "model_index.json", vae=["diffusers", "NoSuchModel"])
    assert_refused(folder, "NoSuchModel, which diffusers does not have")


def test_a_missing_component_is_named(folder):
    shutil.rmtree(folder / "vae")
    assert_refused(folder, r"vae is missing")


def test_a_missing_config_is_named(folder):
    (folder / "vae/config.json").unlink()
    assert_refused(folder, r"config\.json is missing")


@pytest.mark.parametrize("content", ["", "[1]", "{", "\x00", "[" * 100_000])
def test_a_config_that_is_no_object_is_refused(folder, content):
    (folder / "vae/config.json").write_text(content)
    assert_refused(folder, r"config\.json")


def test_a_config_of_an_impossible_model_is_refused(folder):
    rewrite_json(folder / "transformer/config.json", attention_head_dim=7)
    assert_refused(folder, "does not describe a HunyuanDiT2DModel")


def test_a_folder_without_an_index_is_no_model(tmp_path):
    assert_refused(tmp_path, "no model_index.json")


def test_shards_are_read_together_and_a_missing_one_is_named(folder):
    tensors = load_file(folder / DIT)
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / "transformer" / file)
    weight_map = {name: file for file, held in parts.items() for name in held}
    (folder / DIT).unlink()
    index = folder / "transformer/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    validate_model(folder)
    (folder / "transformer/b.safetensors").unlink()
    assert_refused(folder, r"b\.safetensors is missing")


def test_a_shard_outside_the_folder_is_refused(folder):
    (folder / DIT).unlink()
    index = folder / "transformer/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../vae/x.safetensors"}}))
    assert_refused(folder, "names a file outside its folder")
