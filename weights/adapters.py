"""LoRA files: read from PEFT's and diffusers' formats to tensors by module and a PEFT configuration, and checked.

A folder by PEFT holds `adapter_config.json` beside its weights; a file by diffusers holds the configuration in its
header, or a number `<module>.alpha` for each module, or neither, for a scale of 1.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.loaders.lora_base import _fetch_state_dict
from safetensors import SafetensorError
from torch import Tensor, nn

from dianjing.errors import DianjingError
from dianjing.weights.adapter_config import check_config, make_config
from dianjing.weights.adapter_files import check_adapter_path
from dianjing.weights.formats.lora_architectures import refuse_other_architecture
from dianjing.weights.formats.lora_components import select_component_config, select_word_embeddings, split_components
from dianjing.weights.formats.lora_formats import convert_lora
from dianjing.weights.manifest import read_config_json, summarize_names

PEFT_CONFIG_NAME = "adapter_config.json"
FETCH_OPTIONS = ("local_files_only", "cache_dir", "force_download", "proxies", "token", "revision", "subfolder")
HUB_OPTIONS = ("local_files_only", "cache_dir", "force_download", "token", "revision")
IN_MEMORY = "the given tensors"

AdapterSource = str | PathLike | Mapping[str, Tensor]
PEFT_PREFIX = "base_model.model."  # of the keys that PEFT itself writes
PREFIXES = (PEFT_PREFIX, "transformer.", "diffusion_model.")  # the last by ComfyUI
LORA_KEY = re.compile(
    r"(?P<module>.+?)\.(?:lora\.)?"
    r"(?P<part>lora_A|lora_B|lora_down|lora_up|down|up|lora_magnitude_vector|lora_embedding_[AB])"
    r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?(?:\.(?P<kind>weight|bias))?"
)
PART_NAMES = {"lora_down": "lora_A", "down": "lora_A", "lora_up": "lora_B", "up": "lora_B"}
OTHER_FORMATS = (  # pattern of keys, and who writes them
    (re.compile(r"\.(oft|boft)_|\.oft_blocks$"), "OFT"),
    (re.compile(r"\.(ia3_l|vera_lambda_|hra_u$|randlora_|shira_|fourierft_)"), "PEFT, but not LoRA"),
    (re.compile(r"\.on_input$"), "IA3 of LyCORIS"),
    (re.compile(r"\.[ab][12]\.weight$"), "GLoRA"),
    (re.compile(r"\.(diff|diff_b)$"), "LyCORIS full"),
    (re.compile(r"\.[wb]_norm$"), "LyCORIS with norm layers"),
    (re.compile(r"\.lora_mid\."), "LyCORIS of convolutions"),
    (re.compile(r"ip_adapter"), "IP-Adapter"),
)


class Adapter(NamedTuple):
    """A LoRA adapter.

    state: tensors under `<module>.lora_A.weight`, `<module>.lora_B.weight` and, for DoRA,
    `<module>.lora_magnitude_vector`, with the model's names of modules; embeddings have `<module>.lora_embedding_A` and
    `<module>.lora_embedding_B`. config: arguments of `peft.LoraConfig`. metadata: all settings that a file by diffusers
    or PEFT holds; empty for others. word_embeddings: whole weights of a text encoder that were saved beside its LoRA.
    """

    state: dict[str, Tensor]
    config: dict[str, Any]
    metadata: Mapping[str, Any] = {}
    word_embeddings: Mapping[str, Tensor] = {}


def read_adapter_state(tensors: Mapping[str, Tensor], source: object) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Convert the tensors of a file to `Adapter.state` and the alpha of each module that has its own.

    Raises: DianjingError for tensors of no LoRA, of a format that is not read, of several adapters, or not finite.
    """
    state: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    unknown: list[str] = []
    names = set()
    tensors = convert_lora(tensors, source)
    for full_key, tensor in tensors.items():
        key = _strip_prefixes(full_key)
        match = LORA_KEY.fullmatch(key)
        if key.endswith(".alpha") and tensor.numel() == 1:
            alphas[key.removesuffix(".alpha")] = float(tensor)
        elif match is None or "_lora" in match["module"]:
            unknown.append(full_key)
        else:
            part = PART_NAMES.get(match["part"], match["part"])
            is_parameter = part == "lora_magnitude_vector" or part.startswith("lora_embedding_")
            suffix = "" if is_parameter else f".{match['kind'] or 'weight'}"
            state[f"{match['module']}.{part}{suffix}"] = tensor
            names.add(match["adapter"])
    _check_format(tensors, state, unknown, source)
    if len(names) > 1:
        raise DianjingError("adapter_file_of_several", path=source, names=sorted(map(str, names)))
    numbers = {**state, **{f"{module}.alpha": torch.tensor(alpha) for module, alpha in alphas.items()}}
    not_finite = [name for name, tensor in numbers.items() if not bool(torch.isfinite(tensor.float()).all())]
    if not_finite:
        raise DianjingError("adapter_not_finite", path=source, names=summarize_names(not_finite))
    return state, alphas


def _strip_prefixes(key: str) -> str:
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _check_format(keys: Iterable[str], state: Mapping[str, Tensor], unknown: list[str], source: object) -> None:
    """Raise DianjingError for keys of another format, or that would be left out."""
    for pattern, name in OTHER_FORMATS:
        if any(pattern.search(key) for key in keys):
            raise DianjingError("adapter_format_unsupported", path=source, format=name)
    if not state:
        raise DianjingError("adapter_without_lora", path=source)
    if unknown:
        raise DianjingError("adapter_tensors_unknown", path=source, names=summarize_names(unknown))


def check_adapter_fits(adapter: Adapter, model: nn.Module, source: object) -> None:
    """Check that an adapter fits a model: its modules, their sizes, both halves of each, and its ranks.

    Raises: DianjingError that names what does not fit.
    """
    layers = dict(model.named_modules())
    by_module: dict[str, dict[str, Tensor]] = {}
    for key, tensor in adapter.state.items():
        module, _, part = key.partition(".lora_")
        by_module.setdefault(module, {})[part] = tensor
    unknown = sorted(name for name in by_module if getattr(layers.get(name), "weight", None) is None)
    if unknown:
        raise DianjingError("adapter_of_another_model", modules=summarize_names(unknown, 3))
    incomplete = sorted(name for name, parts in by_module.items() if not set(_get_halves(layers[name])) <= parts.keys())
    if incomplete:
        raise DianjingError("adapter_incomplete", path=source, modules=summarize_names(incomplete))
    for module, parts in by_module.items():
        _check_sizes(module, parts, layers[module], adapter.config, source)


def _get_halves(layer: Any) -> tuple[str, str]:
    """The names of the two matrices of a layer's LoRA, after `lora_`."""
    is_embedding = isinstance(getattr(layer, "base_layer", layer), nn.Embedding)
    return ("embedding_A", "embedding_B") if is_embedding else ("A.weight", "B.weight")


def _check_sizes(
    module: str, parts: Mapping[str, Tensor], layer: Any, config: Mapping[str, Any], source: object
) -> None:
    from peft.utils.other import get_pattern_key

    down, up = (parts[half] for half in _get_halves(layer))
    weight = layer.weight  # (out, in, ...), also of a layer that has adapters
    rows, columns = weight.shape[:2] if "A.weight" in parts else (weight.shape[1], weight.shape[0])
    patterns = config.get("rank_pattern") or {}
    rank = patterns.get(get_pattern_key(patterns, module), config.get("r", len(down)))
    sizes = (*down.shape[:2], *up.shape[:2])
    expected = (rank, columns, rows, rank)
    if sizes != expected:
        raise DianjingError(
            "adapter_sizes_mismatch",
            path=source,
            module=module,
            down=str(tuple(down.shape[:2])),
            up=str(tuple(up.shape[:2])),
            expected_down=str(expected[:2]),
            expected_up=str(expected[2:]),
        )


def fetch_adapters(source: AdapterSource, *, weight_name: str | None = None, **options: Any) -> dict[str, Adapter]:
    """Read an adapter from a folder, a .safetensors file, a Hub id, or tensors themselves, by component.

    Raises: DianjingError for a file that is not safetensors, and for an adapter that cannot be read.
    """
    name: Any = IN_MEMORY if isinstance(source, Mapping) else source
    tensors, metadata, folder = _read_tensors(source, weight_name=weight_name, **options)
    refuse_other_architecture(tensors, name)
    peft_config = None
    if metadata is None and folder is not None and any(key.startswith(PEFT_PREFIX) for key in tensors):
        peft_config = _read_peft_config(folder, **options)
    adapters = {}
    for component, part in split_components(tensors).items():
        word_embeddings = {} if component == "transformer" else select_word_embeddings(part)
        loras = {key: tensor for key, tensor in part.items() if key not in word_embeddings}
        state, alphas = read_adapter_state(loras, name)
        config: Mapping[str, Any] | None = peft_config
        if metadata is not None:  # of a file by diffusers
            config = select_component_config(metadata, component) or None
        used_config = make_config(state, alphas) if config is None else check_config(config, name)
        adapters[component] = Adapter(state, used_config, config or {}, word_embeddings)
    return adapters


def _read_tensors(
    source: AdapterSource, *, weight_name: str | None, **options: Any
) -> tuple[dict[str, Tensor], dict[str, Any] | None, Path | None]:
    """Read the tensors, the settings by diffusers, and the path of a file or a Hub id; None for what is not there.

    Raises: DianjingError for what cannot be read or downloaded.
    """
    if isinstance(source, Mapping):
        return dict(source), None, None
    file = check_adapter_path(source, subfolder=options.get("subfolder"), weight_name=weight_name)
    fetch_options = {option: options.get(option) for option in FETCH_OPTIONS}
    if file is not None:
        fetch_options["subfolder"] = None
    try:
        tensors, metadata = _fetch_state_dict(
            str(source if file is None else file),
            weight_name=weight_name if file is None else None,
            use_safetensors=True,
            allow_pickle=False,
            user_agent={"file_type": "attn_procs_weights", "framework": "pytorch"},
            **fetch_options,
        )
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        if file is None and not isinstance(error, SafetensorError):
            raise DianjingError("download_failed", repository=source, reason=reason) from None
        raise DianjingError("adapter_weights_unreadable", path=file or source, reason=reason) from None
    return tensors, metadata, Path(source) if file is None else file


def _read_peft_config(source: Path, *, subfolder: str | None = None, **options: Any) -> dict[str, Any]:
    """Read the configuration beside the weights that PEFT wrote. Raises: DianjingError for none."""
    local = (source.parent if source.is_file() else source / (subfolder or "")) / PEFT_CONFIG_NAME
    if local.is_file():
        return read_config_json(local)
    if not source.exists():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        hub_options = {option: options[option] for option in HUB_OPTIONS if options.get(option) is not None}
        with suppress(EntryNotFoundError):
            path = hf_hub_download(str(source), PEFT_CONFIG_NAME, subfolder=subfolder, **hub_options)
            return read_config_json(Path(path))
    raise DianjingError("adapter_config_missing", path=str(source), name=PEFT_CONFIG_NAME)
