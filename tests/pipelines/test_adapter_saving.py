"""Adapters saved with the arguments of diffusers' methods: what is saved loads back, here and in diffusers."""

import copy

import pytest
import torch
from diffusers import HunyuanDiT2DModel
from diffusers.loaders import PeftAdapterMixin
from diffusers.loaders.lora_pipeline import SD3LoraLoaderMixin
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file

from dianjing import DianjingError, TextToImagePipeline

FILE_NAME = "pytorch_lora_weights.safetensors"
# rank, alpha and modules of the LoRA of each component
SETTINGS = {
    "transformer": (2, 6, ["attn1.to_q", "attn2.to_v"]),
    "text_encoder": (3, 3, ["query", "value"]),
    "text_encoder_2": (2, 1, ["SelfAttention.q"]),
}


class AdaptableHunyuanDiT(HunyuanDiT2DModel, PeftAdapterMixin):
    """Diffusers' model with diffusers' adapters, which it does not have by itself."""


@pytest.fixture(scope="module")
def layers(loaded):
    """The tensors, the settings and the changes of weights of random LoRA of all components."""
    tensors, settings, deltas = {}, {}, {}
    for component, (rank, alpha, targets) in SETTINGS.items():
        torch.manual_seed(rank)
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights=False)
        model = copy.deepcopy(getattr(loaded, component))
        inject_adapter_in_model(config, model)
        tensors[component] = {key: each.detach().clone() for key, each in get_peft_model_state_dict(model).items()}
        settings[component] = config.to_dict()
        for key, down in tensors[component].items():
            if "lora_A" in key:
                module = key.removesuffix(".lora_A.weight")
                deltas[component, module] = alpha / rank * tensors[component][f"{module}.lora_B.weight"] @ down
    return tensors, settings, deltas


def name_arguments(values, suffix):
    return {f"{component}_{suffix}": value for component, value in values.items()}


def read_changes(pipe, plain, deltas):
    """The change of each weight, once the adapters are fused."""
    pipe.fuse_lora()
    return {
        (component, module): getattr(pipe, component).get_submodule(module).weight
        - getattr(plain, component).get_submodule(module).weight
        for component, module in deltas
    }


@pytest.mark.parametrize("components", [("transformer",), ("text_encoder",), tuple(SETTINGS)], ids="+".join)
@pytest.mark.parametrize("has_settings", [True, False], ids=["settings", "tensors alone"])
def test_saved_layers_of_every_component_load_back(own_pipe, loaded, layers, tmp_path, components, has_settings):
    tensors, settings, deltas = layers
    options = name_arguments({each: tensors[each] for each in components}, "lora_layers")
    if has_settings:
        options |= name_arguments({each: settings[each] for each in components}, "lora_adapter_metadata")
    own_pipe.save_lora_weights(tmp_path, **options)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    own_pipe.load_lora_weights(tmp_path)
    assert set(own_pipe.get_list_adapters()) == set(components)
    expected = {}
    for (component, module), delta in deltas.items():
        if component in components:
            rank, alpha, _ = SETTINGS[component]
            expected[component, module] = delta if has_settings else delta * rank / alpha
    changes = read_changes(own_pipe, loaded, expected)
    torch.testing.assert_close(changes, expected, rtol=1e-5, atol=1e-5)


def test_settings_of_one_component_leave_those_of_another_to_its_tensors(own_pipe, loaded, layers, tmp_path):
    tensors, settings, deltas = layers
    own_pipe.save_lora_weights(
        tmp_path,
        tensors["transformer"],
        text_encoder_lora_layers=tensors["text_encoder"],
        transformer_lora_adapter_metadata=settings["transformer"],
    )
    own_pipe.load_lora_weights(tmp_path)
    expected = {key: delta for key, delta in deltas.items() if key[0] != "text_encoder_2"}  # alpha is the rank there
    torch.testing.assert_close(read_changes(own_pipe, loaded, expected), expected, rtol=1e-5, atol=1e-5)


def test_diffusers_reads_what_is_saved(make_hunyuan, layers, tmp_path):
    tensors, settings, deltas = layers
    TextToImagePipeline.save_lora_weights(
        tmp_path, **name_arguments(tensors, "lora_layers"), **name_arguments(settings, "lora_adapter_metadata")
    )
    state, metadata = SD3LoraLoaderMixin.lora_state_dict(tmp_path, return_lora_metadata=True)
    assert state.keys() == {f"{component}.{key}" for component, each in tensors.items() for key in each}
    assert {name: metadata[f"{name}.lora_alpha"] for name in SETTINGS} == {n: s[1] for n, s in SETTINGS.items()}
    own_state, own_metadata = TextToImagePipeline.lora_state_dict(tmp_path, return_lora_metadata=True)
    torch.testing.assert_close(own_state, state)
    assert own_metadata == metadata
    assert TextToImagePipeline.lora_state_dict(tmp_path).keys() == state.keys()
    source = make_hunyuan().transformer
    model, before = AdaptableHunyuanDiT.from_config(source.config), source.state_dict()
    model.load_state_dict(before)
    model.load_lora_adapter(tmp_path / FILE_NAME, prefix="transformer", use_safetensors=True)
    model.fuse_lora()
    for (component, module), delta in deltas.items():
        if component == "transformer":
            change = model.get_submodule(module).weight - before[f"{module}.weight"]
            torch.testing.assert_close(change, delta, rtol=1e-5, atol=1e-5)


def test_modules_and_tensors_that_share_memory_are_saved(tmp_path):
    shared = torch.randn(2, 16)
    names = [f"blocks.0.attn1.{part}" for part in ("to_q", "to_k")]
    tensors = {f"{name}.lora_A.weight": shared for name in names}
    tensors |= {f"{name}.lora_B.weight": torch.randn(2, 16).T for name in names}  # not contiguous
    module = torch.nn.Module()
    module.query = torch.nn.Module()
    module.query.lora_A = torch.nn.Linear(4, 2, bias=False)
    TextToImagePipeline.save_lora_weights(tmp_path, tensors, text_encoder_lora_layers=module)
    written = load_file(tmp_path / FILE_NAME)
    assert torch.equal(written.pop("text_encoder.query.lora_A.weight"), module.query.lora_A.weight)
    torch.testing.assert_close(written, {f"transformer.{name}": tensor for name, tensor in tensors.items()})


def test_a_function_of_the_caller_writes_the_tensors(own_pipe, layers, loaded, tmp_path):
    tensors, settings, deltas = layers
    named = {"transformer_lora_layers": tensors["transformer"], "weight_name": "style.safetensors"}
    own_pipe.save_lora_weights(tmp_path / "new", **named, save_function=save_file)
    own_pipe.load_lora_weights(tmp_path / "new", weight_name="style.safetensors")
    expected = {key: delta / 3 for key, delta in deltas.items() if key[0] == "transformer"}  # scale 1: alpha is lost
    torch.testing.assert_close(read_changes(own_pipe, loaded, expected), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(DianjingError, match="transformer_lora_adapter_metadata"):
        own_pipe.save_lora_weights(
            tmp_path / "other", **named, save_function=save_file, transformer_lora_adapter_metadata=settings
        )
    assert not (tmp_path / "other").exists()


def test_only_the_main_process_writes(layers, tmp_path):
    TextToImagePipeline.save_lora_weights(tmp_path / "a", layers[0]["transformer"], is_main_process=False)
    assert not (tmp_path / "a").exists()


def test_pickles_are_not_written(layers, tmp_path, warnings):
    TextToImagePipeline.save_lora_weights(tmp_path, layers[0]["transformer"], safe_serialization=False)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    assert any("safe_serialization" in message for message in warnings)


@pytest.mark.parametrize(
    ("options", "message_id"),
    [
        ({}, "adapter_layers_missing"),
        ({"transformer_lora_layers": {}}, "adapter_layers_missing"),
        ({"weight_name": "style.bin"}, "adapter_name_suffix"),
        ({"save_directory": "file"}, "folder_is_file"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_nothing_is_written(layers, tmp_path, monkeypatch, options, message_id):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    arguments = {"transformer_lora_layers": layers[0]["transformer"]}
    if message_id == "adapter_layers_missing":
        arguments = {}
    with pytest.raises(DianjingError) as refusal:
        TextToImagePipeline.save_lora_weights(**{"save_directory": "out", **arguments, **options})
    assert refusal.value.message_id == message_id
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_pipelines_name_their_components_as_in_diffusers():
    for name in ("transformer_name", "text_encoder_name"):
        assert getattr(TextToImagePipeline, name) == getattr(SD3LoraLoaderMixin, name)
