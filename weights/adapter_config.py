"""Configurations of LoRA adapters: made from tensors, or selected from PEFT's own.

Source: `peft.tuners.lora`: the scale is lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dianjing.errors import DianjingError

CONFIG_NAMES = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias")
# settings that name the layers, whose weights say it too, and those of training alone
UNUSED_CONFIG_NAMES = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "megatron_config",
    "megatron_core",
    "peft_type",
    "peft_version",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
BASE_CHANGING_INITS = ("corda", "loftq", "olora", "pissa")  # of init_lora_weights: the base weights were changed too


def make_config(state: Mapping[str, Tensor], alphas: Mapping[str, float]) -> dict[str, Any]:
    """Make the configuration of an adapter from its tensors; a module without alpha, or with 0, has a scale of 1."""
    ranks = {
        name.partition(".lora_")[0]: len(tensor)
        for name, tensor in state.items()
        if name.endswith((".lora_A.weight", ".lora_embedding_A"))
    }
    scaled = {module: alphas.get(module) or float(rank) for module, rank in ranks.items()}
    rank, alpha = (Counter(each.values()).most_common(1)[0][0] if each else 1 for each in (ranks, scaled))
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{re.escape(module)}": each for module, each in ranks.items() if each != rank},
        "alpha_pattern": {f"^{re.escape(module)}": each for module, each in scaled.items() if each != alpha},
        "use_dora": any(name.endswith(".lora_magnitude_vector") for name in state),
        "lora_bias": any(name.endswith(".lora_B.bias") for name in state),
    }


def check_config(config: Mapping[str, Any], source: object) -> dict[str, Any]:
    """Select the arguments of `peft.LoraConfig` that a scale is computed from, out of PEFT's configuration.

    Raises: DianjingError for another method of PEFT, and for settings that change what an adapter computes.
    """
    method = str(config.get("peft_type") or "LORA").rpartition(".")[2]
    if method != "LORA":
        raise DianjingError("adapter_format_unsupported", path=source, format=f"PEFT {method}")
    from peft import LoraConfig

    init = str(config.get("init_lora_weights") or "").lower()
    defaults = LoraConfig().to_dict()
    unused = UNUSED_CONFIG_NAMES.union(CONFIG_NAMES)
    others = {name: value for name, value in config.items() if name not in unused and value != defaults.get(name)}
    if init.startswith(BASE_CHANGING_INITS):
        others["init_lora_weights"] = init
    for name, value in others.items():
        if value:  # False, 0 and empty values of a setting that this release of PEFT does not have switch it off
            raise DianjingError("adapter_setting_unsupported", path=source, name=name, value=str(value))
    return {name: config[name] for name in CONFIG_NAMES if name in config}
