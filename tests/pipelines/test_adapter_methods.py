"""Methods of adapters in every order: set, fused, unfused, deleted, unloaded, and under `torch.compile`."""

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from dianjing import DianjingError
from dianjing.pipelines.named_adapters import load_adapters, parse_adapters
from dianjing.weights.adapter_files import is_usable_name


def assert_close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture
def two_adapters(own_pipe, adapter, tmp_path):
    """A pipeline with adapters A and B, both loaded."""
    tensors, _ = adapter
    own_pipe.load_lora_weights(tensors, adapter_name="A")
    other = {name: torch.flip(tensor, (0, 1)) for name, tensor in tensors.items()}
    own_pipe.load_lora_weights({name: 0.5 * tensor for name, tensor in other.items()}, adapter_name="B")
    return own_pipe


def test_fusing_one_of_two_active_adapters_is_refused(two_adapters, generate_latents):
    two_adapters.set_adapters(["A", "B"], [1.0, 0.5])
    both = generate_latents(two_adapters)
    with pytest.raises(DianjingError, match=r"fuse B and drop A"):
        two_adapters.fuse_lora(adapter_names=["B"])
    assert_close(generate_latents(two_adapters), both, 1e-4)
    two_adapters.fuse_lora(adapter_names=["A", "B"])
    assert_close(generate_latents(two_adapters), both, 1e-4)
    assert two_adapters.fused_loras == {"A", "B"}


@pytest.mark.parametrize(
    "act",
    [
        lambda pipe: pipe.set_adapters("nope"),
        lambda pipe: pipe.set_adapters(["A", "nope"]),
        lambda pipe: pipe.fuse_lora(adapter_names=["nope"]),
        lambda pipe: pipe.delete_adapters("nope"),
        lambda pipe: pipe.delete_adapters(["A", "nope"]),
    ],
)
def test_an_unknown_adapter_is_refused_with_those_that_are_loaded(two_adapters, generate_latents, act):
    before = generate_latents(two_adapters)
    with pytest.raises(DianjingError, match=r"nope.*loaded: A, B"):
        act(two_adapters)
    assert_close(generate_latents(two_adapters), before, 1e-4)


def test_unfusing_gives_back_what_was_there_before_a_scaled_fusion(two_adapters, generate_latents):
    two_adapters.set_adapters("A", 0.5)
    half = generate_latents(two_adapters)
    two_adapters.set_adapters("A", 1.0)
    full = generate_latents(two_adapters)
    for _ in range(2):
        two_adapters.fuse_lora(lora_scale=0.5)
        assert_close(generate_latents(two_adapters), half, 1e-4)
        two_adapters.unfuse_lora()
        assert_close(generate_latents(two_adapters), full, 1e-4)
    assert two_adapters.num_fused_loras == 0


def test_fused_adapters_stay_when_they_are_unloaded_and_others_can_follow(two_adapters, adapter, generate_latents):
    two_adapters.set_adapters(["A", "B"])
    both = generate_latents(two_adapters)
    two_adapters.set_adapters("A")
    two_adapters.fuse_lora()
    two_adapters.unload_lora_weights()
    assert two_adapters.num_fused_loras == 0
    other = {name: 0.5 * torch.flip(tensor, (0, 1)) for name, tensor in adapter[0].items()}
    two_adapters.load_lora_weights(other, adapter_name="B")
    assert_close(generate_latents(two_adapters), both, 1e-4)


def test_deleting_an_adapter_activates_no_other(two_adapters, own_pipe, generate_latents):
    two_adapters.set_adapters("B")
    only_b = generate_latents(two_adapters)
    two_adapters.set_adapters(["A", "B"])
    two_adapters.delete_adapters("A")
    assert_close(generate_latents(two_adapters), only_b, 1e-4)
    assert two_adapters.get_active_adapters() == ["B"]
    two_adapters.delete_adapters("B")
    assert two_adapters.get_list_adapters() == {}


def test_deleting_the_only_active_adapter_leaves_the_model_alone(own_pipe, adapter, generate_latents):
    plain = generate_latents(own_pipe)
    own_pipe.load_lora_weights(adapter[0], adapter_name="A")
    own_pipe.load_lora_weights(adapter[0], adapter_name="B")
    own_pipe.set_adapters("A")
    own_pipe.delete_adapters("A")
    assert own_pipe.get_active_adapters() == []
    assert_close(generate_latents(own_pipe), plain, 1e-4)


def test_adapters_without_names_get_free_ones(own_pipe, adapter):
    own_pipe.load_lora_weights(adapter[0])
    own_pipe.load_lora_weights(adapter[0])
    own_pipe.delete_adapters("default_0")
    own_pipe.load_lora_weights(adapter[0])
    assert sorted(own_pipe.get_list_adapters()["transformer"]) == ["default_0", "default_1"]


@pytest.mark.parametrize("name", ["", "my.style", "A", "train", "copy", "_style"])
def test_a_name_that_cannot_be_used_is_refused(two_adapters, adapter, name):
    with pytest.raises(DianjingError, match="adapter name"):
        two_adapters.load_lora_weights(adapter[0], adapter_name=name)


def test_a_file_with_the_name_of_an_attribute_of_torch_gets_another_name(own_pipe, adapter, tmp_path):
    """PEFT keeps adapters in modules that refuse those names."""
    for kind in (torch.nn.ModuleDict, torch.nn.ParameterDict):
        assert [name for name in dir(kind()) if is_usable_name(name)] == []
    for name in ("train", "half", "style"):
        save_file(adapter[0], tmp_path / f"{name}.safetensors")
    sources = parse_adapters([f"{tmp_path / name}.safetensors" for name in ("train", "half", "style")])
    load_adapters(own_pipe, sources)
    assert own_pipe.get_list_adapters()["transformer"] == ["train-lora", "half-lora", "style"]


def test_a_compiled_transformer_takes_adapters(own_pipe, adapter, generate_latents):
    plain = generate_latents(own_pipe)
    own_pipe.load_lora_weights(adapter[0], adapter_name="A")
    adapted = generate_latents(own_pipe)
    own_pipe.unload_lora_weights()
    own_pipe.transformer = torch.compile(own_pipe.transformer, backend="eager")
    own_pipe.load_lora_weights(adapter[0], adapter_name="A")
    assert_close(generate_latents(own_pipe), adapted, 1e-4)
    own_pipe.set_adapters("A", 0.0)
    assert_close(generate_latents(own_pipe), plain, 1e-4)
    own_pipe.set_adapters("A")
    own_pipe.fuse_lora()
    assert own_pipe.fused_loras == {"A"}
    assert_close(generate_latents(own_pipe), adapted, 1e-4)
    own_pipe.unfuse_lora()
    own_pipe.disable_lora()
    assert_close(generate_latents(own_pipe), plain, 1e-4)
    own_pipe.enable_lora()
    own_pipe.delete_adapters("A")
    assert own_pipe.get_active_adapters() == []
    assert_close(generate_latents(own_pipe), plain, 1e-4)
    assert isinstance(own_pipe.transformer, torch._dynamo.eval_frame.OptimizedModule)


def test_an_adapter_of_another_prediction_brings_its_scheduler_until_it_is_unloaded(own_pipe, adapter, tmp_path):
    own = own_pipe.scheduler
    save_file(adapter[0], tmp_path / "pytorch_lora_weights.safetensors")
    changed = diffusers.DDIMScheduler.from_config(own.config, prediction_type="epsilon")
    changed.save_pretrained(tmp_path / "scheduler")
    own_pipe.load_lora_weights(tmp_path, adapter_name="A")
    assert own_pipe.scheduler.config.prediction_type == "epsilon"
    own_pipe("a cat", num_inference_steps=1, output_type="latent")
    own_pipe.delete_adapters("A")
    assert own_pipe.scheduler is own
    own.save_pretrained(tmp_path / "scheduler")
    own_pipe.load_lora_weights(tmp_path)
    assert own_pipe.scheduler is own
