"""LoRA in the formats of several writers: each changes the weights as its deltas do, put in by hand."""

from copy import deepcopy

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file

from dianjing import DiT, TextToImagePipeline
from dianjing.errors import DianjingError

RANK, ALPHA = 4, 6.0
MODULES = ("blocks.0.attn1.to_q", "blocks.0.attn1.to_k", "blocks.0.attn1.to_v", "blocks.1.ff.net.0.proj")
TENCENT_NAMES = {"blocks.1.ff.net.0.proj": "blocks.1.mlp.fc1"}


@pytest.fixture
def pipe(tiny_folder):
    return TextToImagePipeline.from_pretrained(tiny_folder)


@pytest.fixture
def pairs(pipe):
    """A and B of each module; query, key and value share their A, as in a fused projection."""
    generator = torch.Generator().manual_seed(0)
    layers = dict(pipe.transformer.named_modules())
    downs = {}
    pairs = {}
    for module in MODULES:
        rows, columns = layers[module].weight.shape
        key = module.rpartition(".")[0]
        downs.setdefault(key, torch.randn(RANK, columns, generator=generator))
        pairs[module] = (downs[key], torch.randn(rows, RANK, generator=generator))
    return pairs


def get_deltas(pairs):
    return {module: ALPHA / RANK * up @ down for module, (down, up) in pairs.items()}


def name_tensors(pairs, down, up, prefix="", *, flat=False, alpha=True):
    tensors = {}
    for module, (a, b) in pairs.items():
        name = prefix + (module.replace(".", "_") if flat else module)
        tensors |= {f"{name}.{down}": a, f"{name}.{up}": b}
        if alpha:
            tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
    return tensors


def fuse_for_tencent(pairs):
    q, k, v, fc1 = (pairs[module] for module in MODULES)
    return {"blocks.0.attn1.Wqkv": (q[0], torch.cat([q[1], k[1], v[1]])), "blocks.1.mlp.fc1": fc1}


def save(tensors, path):
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
    return path


def check_change(pipe, deltas, path):
    """The fused weights are those that the deltas give, and the images too."""
    expected = {name: tensor.clone() for name, tensor in pipe.transformer.state_dict().items()}
    for module, delta in deltas.items():
        expected[f"{module}.weight"] += delta
    pipe.load_lora_weights(path)
    adapted = sample(pipe)
    pipe.fuse_lora()
    layers = dict(pipe.transformer.named_modules())
    for module in deltas:
        difference = layers[module].base_layer.weight - expected[f"{module}.weight"]
        assert difference.abs().max() < 1e-5 * expected[f"{module}.weight"].abs().max(), module
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    pipe.transformer.load_state_dict(expected)
    assert (adapted - sample(pipe)).abs().max() < 1e-4


def sample(pipe):
    generator = torch.Generator().manual_seed(0)
    return torch.from_numpy(pipe("cat", num_inference_steps=2, generator=generator, output_type="np").images)


WRITERS = {
    "diffusers": lambda pairs: name_tensors(pairs, "lora_A.weight", "lora_B.weight", "transformer."),
    "diffusers, before PEFT": lambda pairs: name_tensors(pairs, "lora.down.weight", "lora.up.weight", "transformer."),
    "kohya": lambda pairs: name_tensors(pairs, "lora_down.weight", "lora_up.weight", "lora_unet_", flat=True),
    "kohya, Tencent's names": lambda pairs: name_tensors(
        fuse_for_tencent(pairs), "lora_down.weight", "lora_up.weight", "lora_unet_", flat=True
    ),
    "ComfyUI": lambda pairs: name_tensors(pairs, "lora_A.weight", "lora_B.weight", "diffusion_model."),
    "Tencent": lambda pairs: name_tensors(fuse_for_tencent(pairs), "lora_A.weight", "lora_B.weight"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_every_format_gives_the_same_change(writer, pipe, pairs, tmp_path):
    check_change(pipe, get_deltas(pairs), save(WRITERS[writer](pairs), tmp_path / "lora.safetensors"))


@pytest.mark.parametrize(
    "config",
    [
        LoHaConfig(r=3, alpha=5, target_modules=list(MODULES)),
        LoKrConfig(r=1, alpha=3, target_modules=list(MODULES)),
        LoKrConfig(r=1, alpha=3, decompose_both=True, decompose_factor=4, target_modules=list(MODULES)),
        LoKrConfig(r=64, alpha=64, target_modules=list(MODULES)),  # both factors whole: LyCORIS has no scale then
    ],
    ids=["LoHa", "LoKr", "LoKr, both factors", "LoKr, whole"],
)
def test_lycoris_products_change_the_weights_as_in_peft(config, pipe, tmp_path):
    model = inject_adapter_in_model(config, deepcopy(pipe.transformer))
    torch.manual_seed(0)
    deltas, tensors = {}, {}
    for name, layer in model.named_modules():
        if hasattr(layer, "get_delta_weight"):
            for parameter in layer.parameters():
                if parameter.requires_grad:
                    torch.nn.init.normal_(parameter, std=0.3)
            deltas[name] = layer.get_delta_weight("default").detach()
    for key, tensor in get_peft_model_state_dict(model).items():
        module, _, part = key.rpartition(".")
        flat = module.replace(".", "_")
        tensors |= {f"lora_unet_{flat}.{part}": tensor, f"lora_unet_{flat}.alpha": torch.tensor(float(config.alpha))}
    assert deltas.keys() == set(MODULES)
    check_change(pipe, deltas, save(tensors, tmp_path / "lycoris.safetensors"))


def test_dora_of_kohya_is_that_of_peft(pipe, pairs, tmp_path):
    torch.manual_seed(0)
    magnitudes = {module: torch.rand(len(up)) + 0.5 for module, (_, up) in pairs.items()}
    model: DiT = deepcopy(pipe.transformer)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, use_dora=True, target_modules=list(MODULES))
    inject_adapter_in_model(config, model)
    layers = dict(model.named_modules())
    for module, (down, up) in pairs.items():
        layers[module].lora_A["default"].weight.data = down.clone()
        layers[module].lora_B["default"].weight.data = up.clone()
        layers[module].lora_magnitude_vector["default"].weight.data = magnitudes[module].clone()
    tensors = name_tensors(pairs, "lora_down.weight", "lora_up.weight", "lora_unet_", flat=True)
    for module, magnitude in magnitudes.items():
        tensors[f"lora_unet_{module.replace('.', '_')}.dora_scale"] = magnitude[:, None]
    before = {module: layers[module].base_layer.weight.clone() for module in MODULES}
    for module in MODULES:
        layers[module].merge()
    deltas = {module: layers[module].base_layer.weight.detach() - before[module] for module in MODULES}
    check_change(pipe, deltas, save(tensors, tmp_path / "dora.safetensors"))


def test_adapters_of_several_formats_act_together(pipe, pairs, tmp_path):
    first = save(WRITERS["kohya"](pairs), tmp_path / "first.safetensors")
    factors = {
        part: torch.randn(size, generator=torch.Generator().manual_seed(3)) * 0.1
        for part, size in (
            ("hada_w1_a", (16, 2)),
            ("hada_w1_b", (2, 16)),
            ("hada_w2_a", (16, 2)),
            ("hada_w2_b", (2, 16)),
        )
    }
    second = save(
        {f"lora_unet_blocks_0_attn1_to_q.{part}": each for part, each in factors.items()}, tmp_path / "s.safetensors"
    )
    loha = (factors["hada_w1_a"] @ factors["hada_w1_b"]) * (factors["hada_w2_a"] @ factors["hada_w2_b"])
    expected = {name: tensor.clone() for name, tensor in pipe.transformer.state_dict().items()}
    for module, delta in get_deltas(pairs).items():
        expected[f"{module}.weight"] += 0.8 * delta
    expected["blocks.0.attn1.to_q.weight"] += 0.5 * loha
    pipe.load_lora_weights(first, adapter_name="first")
    pipe.load_lora_weights(second, adapter_name="second")
    pipe.set_adapters(["first", "second"], [0.8, 0.5])
    adapted = sample(pipe)
    pipe.unload_lora_weights()
    pipe.transformer.load_state_dict(expected)
    assert (adapted - sample(pipe)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("tensors", "part_of_message"),
    [
        ({"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.zeros(4, 8)}, "Stable Diffusion"),
        ({"lora_te1_encoder_layer_0_output_dense.lora_down.weight": torch.zeros(4, 8)}, "lacks one half"),
        ({"lora_unet_blocks_0_attn1_to_q.hada_t1": torch.zeros(2, 2, 3, 3)}, "convolution"),
        (
            {
                "lora_unet_blocks_0_attn1_to_q.lora_down.weight": torch.zeros(4, 16),
                "lora_unet_blocks_0_attn1_to_q.lora_up.weight": torch.zeros(16, 4),
                "lora_unet_blocks_0_attn1_to_q.dora_scale": torch.ones(1, 16),
            },
            "DoRA",
        ),
    ],
)
def test_adapters_that_cannot_be_used_are_refused_by_name(tensors, part_of_message, pipe, tmp_path):
    path = save(tensors, tmp_path / "adapter.safetensors")
    with pytest.raises(DianjingError, match=part_of_message):
        pipe.load_lora_weights(path)
    assert not pipe.get_list_adapters()
