"""LoRA of other writers under diffusers' names: kohya's sd-scripts, LyCORIS, ComfyUI and Tencent.

The result has `<module>.lora_A.weight`, `<module>.lora_B.weight`, `<module>.alpha` and, for DoRA,
`<module>.lora_magnitude_vector`. LoHa and LoKr become LoRA of a higher rank with exactly the same change of the
weights, so that adapters of all kinds can be combined and fused.

Source: kohya-ss/sd-scripts, networks/lora.py; LyCORIS (arXiv 2309.14859), `loha` and `lokr`.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from dianjing.weights.formats.tencent_names import RULES, split_name
from dianjing.weights.manifest import WeightsError

PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.", "model.diffusion_model.")
FLAT_PREFIX = re.compile(r"(?:lora_unet|lora_transformer|lycoris)_(?P<module>.*)")  # the last by lycoris-lora itself
PARTS = re.compile(
    r"(?P<module>.+?)\.(?P<part>hada_[wt]\d(?:_[ab])?|lokr_[wt]\d(?:_[ab])?|alpha|dora_scale"
    r"|(?:lora\.)?(?:lora_A|lora_B|lora_down|lora_up|down|up)(?:\.default)?\.weight)"
)
LORA_PARTS = {"lora_A": "A", "lora_down": "A", "down": "A", "lora_B": "B", "lora_up": "B", "up": "B"}
_FLAT_MODULES = [  # kohya writes an underscore for every dot
    (re.compile(re.escape(name.replace(".", "_")).replace(r"\{i\}", r"(\d+)")), name)
    for rule in RULES
    for name in (rule.tencent, *rule.diffusers)
]
_TENCENT_RULES = {rule.tencent: rule for rule in RULES if rule.tencent not in rule.diffusers}
_DIFFUSERS_MODULES = {name for rule in RULES for name in rule.diffusers}

Parts = dict[str, Tensor]  # of one module: "A", "B", "alpha", "dora_scale", or those of LyCORIS


def convert_lora(tensors: Mapping[str, Tensor], source: object) -> dict[str, Tensor]:
    """Convert the tensors of a LoRA, LoHa or LoKr of a transformer to LoRA under diffusers' names.

    Raises: WeightsError for parts that cannot be converted, naming them. Keys that are no adapter's stay as they are.
    """
    modules: dict[str, Parts] = {}
    converted = {}
    for key, tensor in tensors.items():
        found = PARTS.fullmatch(_strip_prefixes(key))
        if found is None:
            converted[key] = tensor
            continue
        modules.setdefault(_unflatten(found["module"]), {})[_get_part(found["part"])] = tensor
    for module, parts in modules.items():
        for name, lora in _split_fused(module, _to_lora(module, parts, source)).items():
            converted |= _name_parts(name, lora)
    return converted


def _strip_prefixes(key: str) -> str:
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _get_part(part: str) -> str:
    part = part.removeprefix("lora.").removesuffix(".weight").removesuffix(".default")
    return LORA_PARTS.get(part, part)


def _unflatten(module: str) -> str:
    """The dotted name of a module that kohya or LyCORIS wrote with underscores; others are returned as they are."""
    flat = FLAT_PREFIX.fullmatch(module)
    if flat is None:
        return module
    for pattern, name in _FLAT_MODULES:
        if found := pattern.fullmatch(flat["module"]):
            return name.replace("{i}", found[1]) if found.groups() else name
    return module


def _to_lora(module: str, parts: Parts, source: object) -> Parts:
    """The parts of a module as those of LoRA."""
    kinds = {name.partition("_")[0] for name in parts}
    if "t1" in "".join(parts) or "t2" in "".join(parts):
        raise WeightsError("adapter_convolution", path=str(source), module=module)
    if "hada" in kinds:
        return _keep_dora(_from_loha(parts), parts, module, source)
    if "lokr" in kinds:
        return _keep_dora(_from_lokr(parts), parts, module, source)
    lora: Parts = {str(name): parts[name] for name in ("A", "B", "alpha") if name in parts}
    return _keep_dora(lora, parts, module, source)


def _keep_dora(lora: Parts, parts: Parts, module: str, source: object) -> Parts:
    """Add DoRA's magnitudes, if they are those of the rows; PEFT has no others."""
    if "dora_scale" not in parts:
        return lora
    scale = parts["dora_scale"]
    if scale.shape[0] != len(lora["B"]) or scale.numel() != scale.shape[0]:
        raise WeightsError("adapter_dora_columns", path=str(source), module=module)
    return {**lora, "magnitude": scale.flatten()}


def _from_loha(parts: Parts) -> Parts:
    """(w1_a w1_b) * (w2_a w2_b), elementwise, as one product: its rank is that of both factors multiplied."""
    w1_a, w1_b, w2_a, w2_b = (parts[f"hada_{name}"].float() for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
    up = torch.einsum("oi,oj->oij", w1_a, w2_a).flatten(1)
    down = torch.einsum("ik,jk->ijk", w1_b, w2_b).flatten(0, 1)
    return _with_scale(up, down, parts, rank=len(w1_b))


def _from_lokr(parts: Parts) -> Parts:
    """kron(w1, w2) as one product: kron(p1 q1, p2 q2) = kron(p1, p2) kron(q1, q2)."""
    (p1, q1), (p2, q2) = _factorize(parts, "lokr_w1"), _factorize(parts, "lokr_w2")
    ranks = [len(parts[f"lokr_{name}_b"]) for name in ("w1", "w2") if f"lokr_{name}_b" in parts]
    return _with_scale(torch.kron(p1, p2), torch.kron(q1, q2), parts, rank=ranks[0] if ranks else None)


def _factorize(parts: Parts, name: str) -> tuple[Tensor, Tensor]:
    """Two factors of a matrix, with as small an inner size as they are known to have."""
    if f"{name}_a" in parts:
        return parts[f"{name}_a"].float(), parts[f"{name}_b"].float()
    matrix = parts[name].float()
    rows, columns = matrix.shape
    return (matrix, torch.eye(columns)) if columns <= rows else (torch.eye(rows), matrix)


def _with_scale(up: Tensor, down: Tensor, parts: Parts, *, rank: int | None) -> Parts:
    """A product with the alpha that gives it the scale alpha / rank of its writer; without a rank the scale is 1."""
    scale = 1.0 if rank is None or "alpha" not in parts else float(parts["alpha"]) / rank
    return {"A": down, "B": up, "alpha": torch.tensor(scale * len(down))}


def _split_fused(module: str, lora: Parts) -> dict[str, Parts]:
    """The LoRA of a module of Tencent's as those of diffusers: the same A, and the rows of B for each part."""
    template, number, _ = split_name(module)
    rule = _TENCENT_RULES.get(template)
    if rule is None or template in _DIFFUSERS_MODULES:
        return {module: lora}
    rows = {name: lora[name].chunk(len(rule.diffusers)) for name in ("B", "magnitude") if name in lora}
    if rule.swap_halves:
        rows = {name: (torch.cat(part.chunk(2)[::-1]),) for name, (part,) in rows.items()}
    return {
        part.replace("{i}", number): {**lora, **{name: each[index] for name, each in rows.items()}}
        for index, part in enumerate(rule.diffusers)
    }


def _name_parts(module: str, lora: Parts) -> dict[str, Tensor]:
    names = {
        "A": f"{module}.lora_A.weight",
        "B": f"{module}.lora_B.weight",
        "alpha": f"{module}.alpha",
        "magnitude": f"{module}.lora_magnitude_vector",
    }
    return {names[name]: tensor.contiguous() for name, tensor in lora.items()}
