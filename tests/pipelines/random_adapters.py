"""Random adapters of several methods, and the changes of weights that they stand for."""

import copy

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model


def make_part(model, targets, *, seed, scale=0.3):
    """Tensors of a random adapter as PEFT names them."""
    torch.manual_seed(seed)
    model = copy.deepcopy(model)
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False), model)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=scale)
    return {name: tensor.clone() for name, tensor in get_peft_model_state_dict(model).items()}


def name_by_lycoris(plain, modules, make):
    return {
        f"lora_unet_{module.replace('.', '_')}.{part}": tensor
        for module in modules
        for part, tensor in make(plain.transformer.get_submodule(module)).items()
    }


def compute_dora(base, tensors, weight):
    """The change of a weight by DoRA (Liu et al. 2024, Eq. 5): m (W + w B A) / |W + w B A| - W, by rows."""
    scale = weight * tensors["alpha"] / len(tensors["lora_down.weight"])
    direction = base + scale * tensors["lora_up.weight"] @ tensors["lora_down.weight"]
    return tensors["dora_scale"] * direction / direction.norm(dim=1, keepdim=True) - base


def make_loha(layer):
    """The tensors of LyCORIS for one layer."""
    generator = torch.Generator().manual_seed(layer.in_features)
    sizes = {"w1_a": (layer.out_features, 2), "w1_b": (2, layer.in_features)}
    sizes |= {"w2_a": (layer.out_features, 2), "w2_b": (2, layer.in_features)}
    tensors = {f"hada_{name}": 0.5 * torch.randn(size, generator=generator) for name, size in sizes.items()}
    return {**tensors, "alpha": torch.tensor(3.0)}


def make_lokr(layer):
    """The tensors of LyCORIS for one layer, whose second factor is a product itself."""
    generator = torch.Generator().manual_seed(layer.out_features)
    sizes = {"w1": (4, 4), "w2_a": (layer.out_features // 4, 2), "w2_b": (2, layer.in_features // 4)}
    tensors = {f"lokr_{name}": 0.5 * torch.randn(size, generator=generator) for name, size in sizes.items()}
    return {**tensors, "alpha": torch.tensor(1.0)}


def make_dora(layer):
    """The tensors of kohya for one layer, with magnitudes of its rows."""
    generator, rows = torch.Generator().manual_seed(0), len(layer.weight)
    down, up = (0.3 * torch.randn(size, generator=generator) for size in ((2, layer.in_features), (rows, 2)))
    magnitudes = (1 + torch.rand(rows, 1, generator=generator)) * layer.weight.norm(dim=1, keepdim=True)
    alpha = torch.tensor(4.0)
    return {"lora_down.weight": down, "lora_up.weight": up, "alpha": alpha, "dora_scale": magnitudes.detach()}


def to_kohya(tensors):
    prefixes = {"transformer": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    renamed = {}
    for key, tensor in tensors.items():
        component, _, name = key.partition(".")
        module, part = name.removesuffix(".weight").rsplit(".", 1)
        flat = f"{prefixes[component]}_{module.replace('.', '_')}"
        renamed[f"{flat}.{'lora_down' if part == 'lora_A' else 'lora_up'}.weight"] = tensor.contiguous()
        renamed[f"{flat}.alpha"] = torch.tensor(2.0)
    return renamed
