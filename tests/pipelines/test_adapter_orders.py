"""Adapters of several formats, of transformer and text encoders, in any order of loading, fusing and removing."""

import copy
import random
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from dianjing import DianjingError, TextToImagePipeline
from tests.pipelines.random_adapters import (
    compute_dora,
    make_dora,
    make_loha,
    make_lokr,
    make_part,
    name_by_lycoris,
    to_kohya,
)

LOHA_MODULES = ("blocks.0.attn1.to_q", "blocks.1.attn2.to_k")
LOKR_MODULES = ("blocks.0.attn1.to_q", "blocks.2.ff.net.2")
DORA_MODULES = ("blocks.0.attn1.to_q", "blocks.1.attn1.to_q")
TARGETS = {
    "transformer": ["attn1.to_q", "attn2.to_k", "ff.net.2"],
    "text_encoder": ["query", "value"],
    "text_encoder_2": ["SelfAttention.q", "SelfAttention.v"],
}
COMPONENTS = {
    "A": ("transformer",),
    "B": tuple(TARGETS),
    "C": ("text_encoder",),
    "D": ("transformer", "text_encoder_2"),
}


@pytest.fixture(scope="module")
def plain(hunyuan_folder):
    pipe = TextToImagePipeline.from_pretrained(hunyuan_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def adapters(plain):
    return {
        name: {
            f"{component}.{key}": tensor
            for component in COMPONENTS[name]
            for key, tensor in make_part(getattr(plain, component), TARGETS[component], seed=seed).items()
        }
        for seed, name in enumerate(COMPONENTS)
    }


@pytest.fixture(scope="module")
def files(plain, adapters):
    """Adapters as they are loaded, in the formats of several writers."""
    return {
        "A": adapters["A"],
        "B": to_kohya(adapters["B"]),
        "C": to_kohya(adapters["C"]),
        "D": {key.replace("transformer.", "diffusion_model.", 1): each for key, each in adapters["D"].items()},
        "LoHa": name_by_lycoris(plain, LOHA_MODULES, make_loha),
        "LoKr": name_by_lycoris(plain, LOKR_MODULES, make_lokr),
        "DoRA": name_by_lycoris(plain, DORA_MODULES, make_dora),
    }


@pytest.fixture(scope="module")
def deltas(plain, adapters):
    """The change of every weight by the adapter's weight, by adapter and by component and module."""
    deltas = {}
    for name, tensors in adapters.items():
        for key, down in tensors.items():
            if key.endswith("lora_A.weight"):
                component, _, module = key.removesuffix(".lora_A.weight").partition(".")
                up = tensors[key.replace("lora_A", "lora_B")]
                deltas.setdefault(name, {})[component, module] = partial(torch.mul, up @ down)
    for module in LOHA_MODULES:
        w1_a, w1_b, w2_a, w2_b, alpha = make_loha(plain.transformer.get_submodule(module)).values()
        change = alpha / len(w1_b) * (w1_a @ w1_b) * (w2_a @ w2_b)
        deltas.setdefault("LoHa", {})["transformer", module] = partial(torch.mul, change)
    for module in LOKR_MODULES:
        w1, w2_a, w2_b, alpha = make_lokr(plain.transformer.get_submodule(module)).values()
        change = torch.kron(w1, alpha / len(w2_b) * w2_a @ w2_b)
        deltas.setdefault("LoKr", {})["transformer", module] = partial(torch.mul, change)
    for module in DORA_MODULES:
        layer = plain.transformer.get_submodule(module)
        deltas.setdefault("DoRA", {})["transformer", module] = partial(
            compute_dora, layer.weight.detach(), make_dora(layer)
        )
    return deltas


@pytest.fixture
def pipe(plain):
    copied = {name: copy.deepcopy(part) for name, part in plain.components.items()}
    pipe = TextToImagePipeline(**copied)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe):
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return pipe("a cat on the grass", num_inference_steps=1, latents=noise, output_type="latent").images


def add_deltas(plain, deltas, weights):
    """A pipeline with the deltas of adapters, with their weights, in its own weights."""
    pipe = TextToImagePipeline(**{name: copy.deepcopy(part) for name, part in plain.components.items()})
    pipe.set_progress_bar_config(disable=True)
    for name, weight in weights.items():
        for (component, module), delta in deltas[name].items():
            getattr(pipe, component).get_submodule(module).weight.data += delta(weight)
    return pipe


class Model:
    """Expected state of a pipeline after each operation: loaded names, active weights, and the scale of a fusion."""

    def __init__(self, pipe, files, choose):
        self.pipe, self.files, self.choose = pipe, files, choose
        self.loaded, self.active, self.fused_scale = [], {}, None

    def load(self):
        left = [name for name in self.files if name not in self.loaded]
        if left:
            name = self.choose.choice(left)
            self.pipe.load_lora_weights(self.files[name], adapter_name=name)
            self.loaded.append(name)
            self.active = {name: 1.0}

    def switch(self):
        if self.loaded:
            names = self.choose.sample(self.loaded, self.choose.randint(1, len(self.loaded)))
            self.active = {name: self.choose.choice((0.3, 0.7, 1.0, -0.5)) for name in names}
            self.pipe.set_adapters(list(self.active), list(self.active.values()))

    def fuse(self):
        if self.active and self.fused_scale is None:
            self.fused_scale = self.choose.choice((1.0, 0.6))
            self.pipe.fuse_lora(lora_scale=self.fused_scale)

    def unfuse(self):
        self.fused_scale = None
        self.pipe.unfuse_lora()

    def remove(self):
        if self.loaded:
            name = self.choose.choice(self.loaded)
            self.pipe.delete_adapters(name)
            self.loaded.remove(name)
            self.active.pop(name, None)
            self.fused_scale = self.fused_scale if self.active else None

    @property
    def weights(self):
        scale = 1.0 if self.fused_scale is None else self.fused_scale
        return {name: scale * weight for name, weight in self.active.items()}


@pytest.mark.parametrize("seed", range(30))
def test_any_order_of_operations_ends_where_a_fresh_load_ends(pipe, plain, files, deltas, seed):
    choose = random.Random(seed)
    model = Model(pipe, files, choose)
    model.load()
    for _ in range(12):
        getattr(model, choose.choice(("load", "switch", "fuse", "unfuse", "remove")))()
    expected = generate(add_deltas(plain, deltas, model.weights))
    torch.testing.assert_close(generate(pipe), expected, rtol=1e-5, atol=1e-5)
    assert set(pipe.get_active_adapters()) == set(model.active)
    pipe.unfuse_lora()
    if model.loaded:
        pipe.disable_lora()
    torch.testing.assert_close(generate(pipe), generate(plain), rtol=1e-5, atol=1e-5)


def test_every_adapter_changes_the_latents_by_itself(plain, deltas, files):
    assert deltas.keys() == files.keys()
    for name in files:
        assert (generate(add_deltas(plain, deltas, {name: 1.0})) - generate(plain)).abs().max() > 1e-4


def test_dora_adds_its_change_to_those_of_others_of_its_layers_in_any_order(pipe, plain, files, deltas):
    weights = {"A": 0.7, "LoKr": 1.0, "DoRA": 1.0, "LoHa": -0.5}
    for name in weights:
        pipe.load_lora_weights(files[name], adapter_name=name)
    expected = generate(add_deltas(plain, deltas, weights))
    for names in (list(weights), list(weights)[::-1]):
        pipe.set_adapters(names, [weights[name] for name in names])
        torch.testing.assert_close(generate(pipe), expected, rtol=1e-5, atol=1e-5)
        pipe.fuse_lora(adapter_names=names)
        torch.testing.assert_close(generate(pipe), expected, rtol=1e-5, atol=1e-5)
        pipe.unfuse_lora()


def test_an_adapter_is_loaded_and_acts_while_another_is_fused(pipe, plain, adapters, deltas):
    pipe.load_lora_weights(adapters["A"], adapter_name="A")
    pipe.fuse_lora()
    pipe.load_lora_weights(adapters["B"], adapter_name="B")
    assert pipe.fused_loras == {"B"}
    assert (generate(add_deltas(plain, deltas, {"B": 1.0})) - generate(plain)).abs().max() > 1e-2
    torch.testing.assert_close(generate(pipe), generate(add_deltas(plain, deltas, {"B": 1.0})))
    pipe.set_adapters(["A", "B"])
    torch.testing.assert_close(generate(pipe), generate(add_deltas(plain, deltas, {"A": 1.0, "B": 1.0})))


def test_text_encoders_take_their_parts_in_the_names_of_diffusers_and_kohya(pipe, plain, adapters, deltas, tmp_path):
    expected = generate(add_deltas(plain, deltas, {"B": 1.0}))
    save_file(to_kohya(adapters["B"]), tmp_path / "kohya.safetensors")
    without = {
        (component, each): delta for (component, each), delta in deltas["B"].items() if component == "transformer"
    }
    assert (expected - generate(add_deltas(plain, {"B": without}, {"B": 1.0}))).abs().max() > 1e-3
    for source in (adapters["B"], tmp_path / "kohya.safetensors"):
        pipe.load_lora_weights(source, adapter_name="B")
        torch.testing.assert_close(generate(pipe), expected, rtol=1e-5, atol=1e-5)
        assert set(pipe.get_list_adapters()) == set(TARGETS)
        pipe.unload_lora_weights()
        torch.testing.assert_close(generate(pipe), generate(plain), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message_id"),
    [
        (lambda t: {key: x / 0 if "query.lora_B" in key else x for key, x in t.items()}, "adapter_not_finite"),
        (lambda t: {key.replace(".query.", ".wrong."): x for key, x in t.items()}, "adapter_of_another_model"),
        (lambda t: {key: x[:, :3] if "query.lora_A" in key else x for key, x in t.items()}, "adapter_sizes_mismatch"),
    ],
)
def test_a_spoilt_part_of_a_text_encoder_is_refused_before_anything_changes(pipe, plain, adapters, change, message_id):
    with pytest.raises(DianjingError) as refusal:
        pipe.load_lora_weights(change(adapters["B"]))
    assert refusal.value.message_id == message_id
    assert pipe.get_list_adapters() == {}


def test_a_pipeline_without_the_text_encoder_says_so(plain, adapters):
    pipe = TextToImagePipeline(**{**plain.components, "text_encoder": None, "tokenizer": None})
    with pytest.raises(DianjingError) as refusal:
        pipe.load_lora_weights(adapters["B"])
    assert refusal.value.message_id == "adapter_component_missing"
