"""LoRA of text encoders: kohya's names with underscores, checks of all components, and layers by PEFT."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from dianjing.errors import DianjingError
from dianjing.weights.adapters import IN_MEMORY, Adapter, AdapterSource, check_adapter_fits
from dianjing.weights.word_embeddings import add_embedding_changes

WRAPPER_PREFIXES = ("bert_", "model_", "transformer_", "text_model_")  # of the class that a trainer kept an encoder in


def fit_adapters(
    adapters: Mapping[str, Adapter], models: Mapping[str, nn.Module], source: AdapterSource
) -> dict[str, Adapter]:
    """Check the adapters of all components, and return them under the names of the models' modules.

    Raises: DianjingError for a component that is not there, and for what does not fit.
    """
    name: Any = IN_MEMORY if isinstance(source, Mapping) else source
    fitted = {}
    for component, adapter in adapters.items():
        if component not in models:
            raise DianjingError("adapter_component_missing", path=name, component=component)
        model = models[component]
        if component != "transformer":
            adapter = add_embedding_changes(_unflatten(adapter, model), model, name)
        check_adapter_fits(adapter, model, name)
        fitted[component] = adapter
    return fitted


def _unflatten(adapter: Adapter, model: nn.Module) -> Adapter:
    """Replace module names in which kohya's sd-scripts wrote an underscore for every dot."""
    dotted = {name.replace(".", "_"): name for name, _ in model.named_modules() if not name.endswith("base_layer")}

    def find(module: str) -> str:
        stripped = next((module.removeprefix(each) for each in WRAPPER_PREFIXES if module.startswith(each)), module)
        return dotted.get(module) or dotted.get(stripped) or module

    state = {}
    for key, tensor in adapter.state.items():
        module, separator, part = key.partition(".lora_")
        state[find(module) + separator + part] = tensor
    config = dict(adapter.config)
    if not adapter.metadata:  # patterns that are modules, made from the tensors
        for patterns in ("rank_pattern", "alpha_pattern"):
            named = {key.removeprefix("^").replace("\\", ""): value for key, value in config[patterns].items()}
            config[patterns] = {f"^{re.escape(find(name))}": value for name, value in named.items()}
    return adapter._replace(state=state, config=config)


def add_text_encoder_adapter(model: Any, adapter: Adapter, name: str) -> None:
    """Add a checked adapter to a text encoder of transformers under a name, and activate it."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    targets = sorted({key.partition(".lora_")[0] for key in adapter.state})
    config = LoraConfig(**adapter.config, target_modules=targets, inference_mode=True)
    inject_adapter_in_model(config, model, adapter_name=name)
    set_peft_model_state_dict(model, adapter.state, adapter_name=name)
    model._hf_peft_config_loaded = True
