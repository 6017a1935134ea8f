"""LoHa and LoKr adapters in folders by PEFT: read, checked, and added to a model by PEFT's own layers.

Their change of a weight is a Hadamard or Kronecker product of small matrices (LyCORIS, arXiv 2309.14859).
"""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dianjing.errors import DianjingError
from dianjing.weights.adapter_files import PEFT_WEIGHTS_NAME
from dianjing.weights.adapters import PEFT_CONFIG_NAME, PEFT_PREFIX
from dianjing.weights.manifest import read_config_json, summarize_names

KEY_PREFIXES = {"LOHA": ".hada_", "LOKR": ".lokr_"}  # of the tensors of a module, by PEFT's name of the method


class ProductAdapter(NamedTuple):
    """A LoHa or LoKr adapter: its tensors by the transformer's names, and PEFT's configuration."""

    method: str
    state: dict[str, Tensor]
    config: Any

    def group_by_module(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of each module by their short names, such as "w1_a"."""
        groups: dict[str, dict[str, Tensor]] = {}
        for key, tensor in self.state.items():
            module, _, part = key.rpartition(KEY_PREFIXES[self.method])
            groups.setdefault(module, {})[part] = tensor
        return groups


def read_product_adapter(source: object) -> ProductAdapter | None:
    """Read a LoHa or LoKr adapter; None if `source` is no folder of one.

    Raises: DianjingError for weights that are missing, damaged or not finite.
    """
    if not isinstance(source, str | PathLike) or not (Path(source) / PEFT_CONFIG_NAME).is_file():
        return None
    folder = Path(source)
    method = str(read_config_json(folder / PEFT_CONFIG_NAME).get("peft_type")).rpartition(".")[2]
    if method not in KEY_PREFIXES:
        return None
    from peft import PeftConfig

    try:
        tensors = load_file(folder / PEFT_WEIGHTS_NAME)
    except (OSError, SafetensorError) as error:
        raise DianjingError("adapter_weights_unreadable", path=folder / PEFT_WEIGHTS_NAME, reason=str(error)) from None
    state = {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in tensors.items()}
    not_finite = [key for key, tensor in state.items() if not bool(torch.isfinite(tensor.float()).all())]
    if not_finite:
        raise DianjingError("adapter_not_finite", path=source, names=summarize_names(not_finite))
    return ProductAdapter(method, state, PeftConfig.from_pretrained(str(folder)))


def check_product_adapter(adapter: ProductAdapter, model: nn.Module) -> None:
    """Raise DianjingError for an adapter whose modules the model does not have, or has in other sizes."""
    layers = dict(model.named_modules())
    sizes = {module: _get_product_size(parts, adapter.method) for module, parts in adapter.group_by_module().items()}
    weights = {module: getattr(layers.get(module), "weight", None) for module in sizes}
    unknown = sorted(name for name, weight in weights.items() if weight is None or sizes[name] != tuple(weight.shape))
    if unknown:
        raise DianjingError("adapter_of_another_model", modules=summarize_names(unknown, 3))


def _get_product_size(parts: Mapping[str, Tensor], method: str) -> tuple[int, ...] | None:
    """The (rows, columns) of the weight that the matrices of a module change; None for other tensors."""
    sizes = []
    for factor in ("w1", "w2"):
        if factor in parts:
            sizes.append(tuple(parts[factor].shape))
        elif f"{factor}_a" in parts and f"{factor}_b" in parts:
            sizes.append((parts[f"{factor}_a"].shape[0], parts[f"{factor}_b"].shape[1]))
        else:
            return None
    (rows, columns), (rows_2, columns_2) = sizes
    if method == "LOHA":  # both factors have the size of the weight
        return (rows, columns) if sizes[0] == sizes[1] else None
    return rows * rows_2, columns * columns_2


def add_product_adapter(model: Any, adapter: ProductAdapter, name: str) -> None:
    """Add a checked adapter to a diffusers model under a name, and activate it."""
    from peft import inject_adapter_in_model, set_peft_model_state_dict

    adapter.config.target_modules = sorted(adapter.group_by_module())
    adapter.config.inference_mode = True
    inject_adapter_in_model(adapter.config, model, adapter_name=name)
    set_peft_model_state_dict(model, adapter.state, adapter_name=name)
    model._hf_peft_config_loaded = True
    model.set_adapter(name)
