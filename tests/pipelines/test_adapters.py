"""LoRA adapters: formats and scales against PEFT's own, refusals that change nothing."""

import copy
import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from dianjing import DianjingError, TextToImagePipeline

TARGETS = ["attn1.to_q", "attn1.to_v", "attn2.to_out.0"]
RANK, ALPHA = 2, 6.0


def snapshot(pipe):
    return {name: tensor.clone() for name, tensor in pipe.transformer.state_dict().items()}


def assert_unchanged(pipe, before):
    after = pipe.transformer.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert pipe.get_list_adapters() == {}


def assert_close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def save_peft_folder(pipe, folder, *, seed=0, **options):
    """Save a random adapter by PEFT; return the latents of a pipeline with PEFT's merged weights."""
    torch.manual_seed(seed)
    config = LoraConfig(
        **{"r": RANK, "lora_alpha": ALPHA, "target_modules": TARGETS, "init_lora_weights": False, **options}
    )
    model = get_peft_model(copy.deepcopy(pipe.transformer), config)
    model.save_pretrained(folder)
    return model.merge_and_unload()


def generate_with(pipe, transformer, generate_latents):
    return generate_latents(TextToImagePipeline(**{**pipe.components, "transformer": transformer}))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"attn1.to_q": 4}, "alpha_pattern": {"attn1.to_v": 1}},
        {"target_modules": r"blocks\.[12]\.attn1\.to_[qk]"},
        {"lora_bias": True},
        {"layers_to_transform": [1], "layers_pattern": "blocks", "target_modules": ["to_q"]},
    ],
    ids=str,
)
def test_a_folder_by_peft_acts_as_in_peft(own_pipe, generate_latents, tmp_path, options):
    expected = generate_with(own_pipe, save_peft_folder(own_pipe, tmp_path, **options), generate_latents)
    plain = generate_latents(own_pipe)
    own_pipe.load_lora_weights(tmp_path)
    assert_close(generate_latents(own_pipe), expected, 1e-4)
    assert (expected - plain).abs().max() > 1e-2
    own_pipe.unload_lora_weights()
    assert_close(generate_latents(own_pipe), plain, 1e-4)
    own_pipe.load_lora_weights(tmp_path / "adapter_model.safetensors")  # the configuration lies beside it
    assert_close(generate_latents(own_pipe), expected, 1e-4)


def rename(tensors, prefix="", down="lora_A.weight", up="lora_B.weight"):
    return {
        prefix + name.replace("lora_A.weight", down).replace("lora_B.weight", up): tensor
        for name, tensor in tensors.items()
    }


def get_deltas(pipe, before, names):
    """Return what fusing added to the weights."""
    pipe.fuse_lora()
    weights = {name: pipe.transformer.get_submodule(name).base_layer.weight for name in names}
    return {name: weight - before[f"{name}.weight"] for name, weight in weights.items()}


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"prefix": "transformer."},
        {"prefix": "diffusion_model."},
        {"down": "lora_A.default.weight", "up": "lora_B.default.weight"},
        {"down": "lora_down.weight", "up": "lora_up.weight"},
        {"prefix": "transformer.", "down": "lora.down.weight", "up": "lora.up.weight"},
    ],
    ids=str,
)
@pytest.mark.parametrize("alpha", [None, 6.0, 0.0])
def test_names_and_alphas_of_published_files_are_read(own_pipe, adapter, tmp_path, names, alpha):
    tensors, deltas = adapter
    alphas = {} if alpha is None else {f"{names.get('prefix', '')}{name}.alpha": torch.tensor(alpha) for name in deltas}
    save_file({**rename(tensors, **names), **alphas}, tmp_path / "adapter.safetensors")
    before = snapshot(own_pipe)
    own_pipe.load_lora_weights(tmp_path / "adapter.safetensors")
    scale = alpha / RANK if alpha else 1.0
    for name, delta in get_deltas(own_pipe, before, deltas).items():
        assert_close(delta, scale * deltas[name])


def test_each_module_may_have_its_own_alpha(own_pipe, adapter):
    tensors, deltas = adapter
    scales = {name: float(index + 1) for index, name in enumerate(deltas)}
    first = next(iter(scales))
    alphas = {f"{name}.alpha": torch.tensor(scale * RANK) for name, scale in scales.items() if name != first}
    before = snapshot(own_pipe)
    own_pipe.load_lora_weights({**tensors, **alphas})
    for name, delta in get_deltas(own_pipe, before, deltas).items():
        assert_close(delta, scales[name] * deltas[name])


def change(tensors, **changes):
    first = next(iter(tensors))
    return {**tensors, first: changes["first"](tensors[first])}


@pytest.mark.parametrize(
    ("spoil", "message_id", "text"),
    [
        (lambda t: change(t, first=lambda x: torch.full_like(x, torch.nan)), "adapter_not_finite", r"to_q\.lora_A"),
        (lambda t: change(t, first=lambda x: x / 0), "adapter_not_finite", r"to_q\.lora_A"),
        (lambda t: {**t, "blocks.0.attn1.to_q.alpha": torch.tensor(torch.nan)}, "adapter_not_finite", "alpha"),
        (lambda t: dict(list(t.items())[1:]), "adapter_incomplete", r"blocks\.0\.attn1\.to_q"),
        (lambda t: change(t, first=lambda x: x[:, :5]), "adapter_sizes_mismatch", r"\(2, 5\)"),
        (lambda t: {**t, "proj_out.weight": torch.ones(2, 2)}, "adapter_tensors_unknown", "proj_out"),
        (lambda t: {**t, "blocks.0.attn1.to_q.lora_C.weight": torch.ones(2, 2)}, "adapter_tensors_unknown", "lora_C"),
        (lambda t: rename(t, prefix="other_blocks."), "adapter_of_another_model", "other_blocks"),
        (lambda t: rename(t, prefix="double_blocks.0."), "adapter_of_named_model", "Flux"),
        (lambda t: {"x": torch.ones(2)}, "adapter_without_lora", "no LoRA"),
        (lambda t: {}, "adapter_without_lora", "no LoRA"),
        (
            lambda t: {**rename(t, down="lora_A.a.weight"), **rename(t, down="lora_A.b.weight")},
            "adapter_file_of_several",
            "several",
        ),
        (lambda t: {"blocks.0.attn1.to_q.oft_blocks": torch.ones(2, 4, 4)}, "adapter_format_unsupported", "OFT"),
        (lambda t: {**t, "lora_te1_x.lora_down.weight": torch.ones(2, 2)}, "adapter_of_another_model", "x"),
        (lambda t: {**t, "text_encoder.x.lora_A.weight": torch.ones(2, 2)}, "adapter_of_another_model", "x"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_refused_before_anything_changes(
    own_pipe, adapter, tmp_path, spoil, message_id, text
):
    before, tensors = snapshot(own_pipe), spoil(adapter[0])
    sources = [tensors]
    if tensors:
        save_file(
            {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, tmp_path / "adapter.safetensors"
        )
        sources += [tmp_path / "adapter.safetensors", tmp_path]
    for source in sources:
        with pytest.raises(DianjingError, match=text) as refusal:
            own_pipe.load_lora_weights(source)
        assert refusal.value.message_id == message_id
        assert_unchanged(own_pipe, before)


def cut(path):
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("spoil", "message_id"),
    [
        (cut, "safetensors_truncated"),
        (lambda path: path.write_bytes(path.read_bytes() + b"more"), "safetensors_truncated"),
        (lambda path: path.write_bytes(b""), "not_safetensors"),
        (lambda path: path.write_bytes(b"not an adapter" * 9), "not_safetensors"),
        (lambda path: path.write_bytes(path.read_bytes()[:8] + b"{{" + path.read_bytes()[10:]), "safetensors_header"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + path.read_bytes()), "weights_are_pickle"),
        (lambda path: torch.save({}, path), "weights_are_pickle"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git_lfs_pointer"),
        (lambda path: path.rename(path.with_suffix(".bin")), "adapter_not_found weights_only_as_pickle"),
        (lambda path: path.unlink(), "adapter_not_found adapter_folder_empty"),
    ],
)
def test_a_damaged_or_missing_file_is_refused_before_anything_changes(own_pipe, adapter, tmp_path, spoil, message_id):
    path = tmp_path / "adapter.safetensors"
    save_file(adapter[0], path)
    own_pipe.load_lora_weights(path, adapter_name="whole")
    spoil(path)
    before = snapshot(own_pipe)
    for source in (path, tmp_path):
        for read in (own_pipe.load_lora_weights, own_pipe.lora_state_dict):
            with pytest.raises(DianjingError) as refusal:
                read(source)
            assert any(refusal.value.message_id.startswith(each) for each in message_id.split())
    assert snapshot(own_pipe).keys() == before.keys()
    assert own_pipe.get_active_adapters() == ["whole"]


def test_a_file_whose_metadata_are_damaged_is_refused(own_pipe, adapter, tmp_path):
    save_file(adapter[0], tmp_path / "adapter.safetensors", metadata={"lora_adapter_metadata": "{"})
    with pytest.raises(DianjingError, match=r"adapter\.safetensors"):
        own_pipe.load_lora_weights(tmp_path)
    assert own_pipe.get_list_adapters() == {}


def test_a_hub_id_that_is_not_on_this_machine_is_refused(own_pipe):
    for options in ({}, {"weight_name": "style.safetensors"}):
        with pytest.raises(DianjingError, match="nobody/style"):
            own_pipe.load_lora_weights("nobody/style", **options)


def test_a_file_in_a_folder_is_chosen_by_its_name_and_subfolder(own_pipe, adapter, tmp_path):
    (tmp_path / "last").mkdir()
    save_file(adapter[0], tmp_path / "last" / "b.safetensors")
    cut_file = tmp_path / "last" / "a.safetensors"
    cut_file.write_bytes(b"")
    own_pipe.load_lora_weights(tmp_path, weight_name="b.safetensors", subfolder="last", adapter_name="A")
    assert own_pipe.get_active_adapters() == ["A"]
    with pytest.raises(DianjingError, match=r"c\.safetensors"):
        own_pipe.load_lora_weights(tmp_path, weight_name="c.safetensors", subfolder="last")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"peft_type": "VERA"}, "PEFT VERA"),
        ({"r": 4}, "sizes"),
        ({"modules_to_save": ["proj_out"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"bias": "all"}, "bias"),
        ({"setting_of_the_future": 2}, "setting_of_the_future"),
    ],
)
def test_a_configuration_by_peft_that_is_not_followed_is_refused(own_pipe, tmp_path, changes, text):
    save_peft_folder(own_pipe, tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    before = snapshot(own_pipe)
    with pytest.raises(DianjingError, match=text):
        own_pipe.load_lora_weights(tmp_path)
    assert_unchanged(own_pipe, before)


def test_weights_by_peft_without_their_configuration_are_refused(own_pipe, tmp_path):
    save_peft_folder(own_pipe, tmp_path / "adapter")
    shutil.move(tmp_path / "adapter" / "adapter_model.safetensors", tmp_path / "alone.safetensors")
    with pytest.raises(DianjingError, match=r"adapter_config\.json"):
        own_pipe.load_lora_weights(tmp_path / "alone.safetensors")
