"""Named LoRA adapters: parsed from "FILE:0.8", loaded side by side, and the state that they leave a transformer in."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dianjing.pipelines.media.metadata import compute_file_sha256
from dianjing.pipelines.validation import check_number
from dianjing.weights.adapter_files import check_adapter_path, find_adapter_file, is_usable_name

MAX_ADAPTER_SCALE = 2.0
SCALE_PATTERN = re.compile(r"(.+):([-+]?(?:\d+\.?\d*|\.\d+))")


@dataclass(frozen=True, kw_only=True)
class NamedAdapter:
    """An adapter to load: `path` is a folder, a .safetensors file or a Hub id; `name` is what requests call it."""

    name: str
    path: str
    scale: float = 1.0

    def describe(self) -> dict[str, object]:
        """Describe the adapter for generation metadata: name, strength and the hash of its weights, not its path."""
        return {"name": self.name, "scale": self.scale, "sha256": compute_adapter_sha256(self.path)}


def parse_adapters(texts: Sequence[str]) -> list[NamedAdapter]:
    """Parse "FILE" or "FILE:0.8" for several adapters, and give each a name of its own: that of its file or folder.

    Raises: DianjingError for a path that is no adapter, a file that is cut off, and a strength that is out of range.
    """
    sources: list[NamedAdapter] = []
    for text in texts:
        source = _parse_adapter(text)
        number, names = 1, {other.name for other in sources}
        while (name := source.name if number == 1 else f"{source.name}-{number}") in names:
            number += 1
        sources.append(replace(source, name=name))
    return sources


def _parse_adapter(text: str) -> NamedAdapter:
    match = SCALE_PATTERN.fullmatch(text)
    path, scale = (text, 1.0) if match is None or Path(text).exists() else (match[1], float(match[2]))
    check_adapter_path(path)
    stem = Path(path).resolve().name if Path(path).exists() else path.rpartition("/")[2]
    name = re.sub(r"[^\w-]+", "-", stem.removesuffix(".safetensors")).strip("-_") or "adapter"
    scale = check_number(scale, "the strength of an adapter", low=-MAX_ADAPTER_SCALE, high=MAX_ADAPTER_SCALE)
    return NamedAdapter(name=name if is_usable_name(name) else f"{name}-lora", path=path, scale=scale)


def load_adapters(pipe: Any, sources: Sequence[NamedAdapter]) -> None:
    """Load adapters side by side and activate them with their strengths.

    PEFT freezes the model's own weights, and matrix products of frozen weights round differently: those weights stay
    trainable, so that a model whose adapters are off is bit for bit the model without them.
    """
    models = [getattr(pipe, name, None) for name in pipe._lora_loadable_modules]
    parameters = [parameter for model in models if model is not None for parameter in model.parameters()]
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    for source in sources:
        pipe.load_lora_weights(source.path, adapter_name=source.name)
    for parameter in trainable:
        parameter.requires_grad_(True)
    if sources:
        pipe.set_adapters([source.name for source in sources], [source.scale for source in sources])


def compute_adapter_sha256(name_or_path: str) -> str | None:
    """Compute the SHA-256 of the weights of an adapter; None for one that is not a local file or folder."""
    path = find_adapter_file(name_or_path)
    return None if path is None else compute_file_sha256(path)


def get_adapter_state(pipe: Any) -> tuple[tuple[str, str, float], ...]:
    """Return the components, names and scalings of the adapters that change a pipeline now, fused ones included.

    What was computed from one state is of no use in another.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    state: dict[tuple[str, str], float] = {}
    for component in pipe._lora_loadable_modules:
        model = getattr(pipe, component, None)
        for module in () if model is None else model.modules():
            if isinstance(module, BaseTunerLayer):
                layer: Any = module
                names = [*layer.merged_adapters, *([] if layer.disable_adapters else layer.active_adapters)]
                for name in names:
                    if name in layer.scaling:
                        state.setdefault((component, name), layer.scaling[name])
    return tuple(sorted((*key, scaling) for key, scaling in state.items()))
