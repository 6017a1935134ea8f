"""Export of LoRA under the names that kohya's sd-scripts and ComfyUI read for Hunyuan-DiT: Tencent's modules.

Tencent keeps query, key and value as one projection: their LoRA become one, whose A holds those of the parts below each
other and whose B has theirs on its diagonal. The change of the weights is the same.

Source: kohya-ss/sd-scripts, networks/lora.py; ComfyUI, comfy/lora.py (`model_lora_keys_unet`, `model_lora_keys_clip`).
"""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dianjing.weights.adapters import Adapter, fetch_adapters
from dianjing.weights.formats.conversion import ConversionReport, check_conversion_paths, check_room, temporary_result
from dianjing.weights.formats.lazy_tensors import LazyTensor, write_safetensors
from dianjing.weights.formats.tencent_names import RULES, split_name
from dianjing.weights.manifest import WeightsError, summarize_names
from dianjing.weights.word_embeddings import drop_equal_embeddings

LORA_FORMATS = ("kohya", "comfyui", "diffusers")
TEXT_ENCODER_PREFIXES = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
_RULES = {part: rule for rule in RULES for part in rule.diffusers}
TOLERANCE = 1e-5  # of a change of the weights that was written and read again, to its largest number


class Lora(NamedTuple):
    """One module's change of its weight, scale * up @ down, and DoRA's magnitudes of its rows."""

    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None = None


def convert_adapter(
    source: str | PathLike, out: str | PathLike, *, to: str, base: Path | None = None
) -> ConversionReport:
    """Write an adapter of any format that loads here under the names of another writer, as a .safetensors file.

    to: one of LORA_FORMATS. base: the folder of the pipeline that the adapter was trained on; word embeddings that
    equal those of its text encoders are left out.
    Raises: DianjingError for an adapter that cannot be read, or that the names cannot hold,
    and for a result that exists.
    """
    source, out = Path(source), Path(out)
    if to not in LORA_FORMATS:
        raise WeightsError("value_not_allowed", name="--to", value=to, allowed=list(LORA_FORMATS))
    if out.suffix != ".safetensors":
        raise WeightsError("convert_adapter_suffix", path=str(out))
    check_conversion_paths(source, out)
    adapters = fetch_adapters(source)
    if base is not None:
        adapters = {
            component: drop_equal_embeddings(adapter, base / component) if adapter.word_embeddings else adapter
            for component, adapter in adapters.items()
        }
    tensors = name_adapter(adapters, to)
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    check_room(out, num_bytes)
    with temporary_result(out) as temporary:
        write_safetensors(temporary, {name: LazyTensor.from_tensor(tensor) for name, tensor in tensors.items()})
        _check_changes(adapters, fetch_adapters(temporary), temporary)
    return ConversionReport(
        source_kind="adapter",
        source_format="LoRA",
        components=tuple(adapters),
        num_tensors=len(tensors),
        num_bytes=num_bytes,
        path=out,
    )


def name_adapter(adapters: Mapping[str, Adapter], to: str) -> dict[str, Tensor]:
    """Name the tensors of an adapter, by component, as a writer does. Raises: WeightsError."""
    named: dict[str, Tensor] = {}
    for component, adapter in adapters.items():
        modules = read_modules(adapter)
        if adapter.word_embeddings and to != "diffusers":
            names = summarize_names(list(adapter.word_embeddings))
            raise WeightsError("convert_adapter_embeddings", component=component, names=names, format=to)
        named |= {f"{component}.{key}": tensor.contiguous() for key, tensor in adapter.word_embeddings.items()}
        if component != "transformer":
            flat = to != "diffusers"
            prefix = TEXT_ENCODER_PREFIXES[component] if flat else f"{component}."
            named |= _name_modules(modules, prefix, to if flat else "diffusers")
        elif to == "diffusers":
            named |= _name_modules(modules, "transformer.", to)
        else:
            prefix = "lora_unet_" if to == "kohya" else "diffusion_model."
            named |= _name_modules(_fuse_for_tencent(modules), prefix, to)
    return named


def read_modules(adapter: Adapter) -> dict[str, Lora]:
    """The LoRA of each module, with the scale that the configuration gives it."""
    from peft.utils.other import get_pattern_key

    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in adapter.state.items():
        module, _, part = key.partition(".lora_")
        modules.setdefault(module, {})[part] = tensor
    config: Mapping[str, Any] = adapter.config
    alphas = config.get("alpha_pattern") or {}
    loras = {}
    for module, parts in modules.items():
        unknown = parts.keys() - {"A.weight", "B.weight", "magnitude_vector", "magnitude_vector.weight"}
        if unknown or not {"A.weight", "B.weight"} <= parts.keys():
            raise WeightsError("convert_adapter_part", module=module)
        rank = len(parts["A.weight"])
        alpha = alphas.get(get_pattern_key(alphas, module), config.get("lora_alpha", rank))
        scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
        magnitude = parts.get("magnitude_vector", parts.get("magnitude_vector.weight"))
        loras[module] = Lora(parts["A.weight"].float(), parts["B.weight"].float(), scale, magnitude)
    return loras


def _fuse_for_tencent(modules: Mapping[str, Lora]) -> dict[str, Lora]:
    """Rename modules to Tencent's, and join those that are parts of one. Raises: WeightsError for a module of ours."""
    groups: dict[tuple[str, str], dict[str, Lora]] = {}
    for name, lora in modules.items():
        template, number, _ = split_name(name)
        if template not in _RULES:
            raise WeightsError("convert_adapter_module", module=name)
        groups.setdefault((_RULES[template].tencent, number), {})[template] = lora
    fused = {}
    for (tencent, number), parts in groups.items():
        rule = _RULES[next(iter(parts))]
        name = tencent.replace("{i}", number)
        lora = (
            _join([parts.get(each) for each in rule.diffusers], name) if len(rule.diffusers) > 1 else parts.popitem()[1]
        )
        if rule.swap_halves:
            lora = lora._replace(up=torch.cat(lora.up.chunk(2)[::-1]))
        fused[name] = lora
    return fused


def _join(parts: list[Lora | None], name: str) -> Lora:
    """One LoRA over the rows of several modules; those without one stay as they are."""
    present = [part for part in parts if part is not None]
    magnitudes = [part.magnitude for part in present if part.magnitude is not None]
    if magnitudes and len(magnitudes) < len(parts):
        raise WeightsError("convert_adapter_dora", module=name)
    magnitude = torch.cat([each.flatten() for each in magnitudes]) if magnitudes else None
    first = present[0]
    is_shared = all(torch.equal(part.down, first.down) and part.scale == first.scale for part in present)
    if is_shared and len(present) == len(parts):
        return Lora(first.down, torch.cat([part.up for part in present]), first.scale, magnitude)
    rows = present[0].up.shape[0]
    ups = [torch.zeros(rows, 0) if part is None else part.scale * part.up for part in parts]
    return Lora(torch.cat([part.down for part in present]), torch.block_diag(*ups), 1.0, magnitude)


def _name_modules(modules: Mapping[str, Lora], prefix: str, to: str) -> dict[str, Tensor]:
    is_flat = prefix.startswith("lora_")
    down, up = ("lora_down", "lora_up") if is_flat else ("lora_A", "lora_B")
    named = {}
    for module, lora in modules.items():
        name = prefix + (module.replace(".", "_") if is_flat else module)
        named[f"{name}.{down}.weight"] = lora.down.contiguous()
        named[f"{name}.{up}.weight"] = lora.up.contiguous()
        named[f"{name}.alpha"] = torch.tensor(lora.scale * len(lora.down))
        if lora.magnitude is not None:
            dora = "lora_magnitude_vector" if to == "diffusers" else "dora_scale"
            named[f"{name}.{dora}"] = lora.magnitude if to == "diffusers" else lora.magnitude.flatten()[:, None]
    return named


def _check_changes(expected: Mapping[str, Adapter], written: Mapping[str, Adapter], path: Path) -> None:
    """Compare the changes of all weights with those of a file that was written. Raises: WeightsError."""
    wrong = []
    for component, adapter in expected.items():
        found = read_modules(written[component]) if component in written else {}
        for module, lora in read_modules(adapter).items():
            other = found.get(module) or found.get(module.replace(".", "_"))
            change = lora.scale * lora.up @ lora.down
            limit = TOLERANCE * float(change.abs().max())
            if other is None or not torch.allclose(other.scale * other.up @ other.down, change, rtol=0, atol=limit):
                wrong.append(module)
    if wrong:
        raise WeightsError("convert_result_differs", path=str(path), names=wrong[:5])
