"""The components of a checkpoint or a model folder under diffusers' names, whatever format it is in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dianjing.weights.formats.lazy_tensors import CHECKPOINT_SUFFIXES, LazyTensors, open_checkpoint
from dianjing.weights.formats.tencent_names import convert_to_diffusers, find_unknown_names
from dianjing.weights.formats.transformer_config import infer_transformer_config, is_controlnet
from dianjing.weights.manifest import WeightsError, get_weight_files, read_components, read_config_json, summarize_names

TRANSFORMER_CLASSES = ("DiT", "HunyuanDiT2DModel")
CONTROLNET_CLASS = "HunyuanDiT2DControlNetModel"
# prefixes of the components in a single file, as ComfyUI keeps Hunyuan-DiT
SINGLE_FILE_PREFIXES = {
    "transformer": "model.",
    "text_encoder": "text_encoders.hydit_clip.transformer.bert.",
    "text_encoder_2": "text_encoders.mt5xl.transformer.",
    "vae": "vae.",
}
SINGLE_FILE_PREFIX_OF_ALL = "text_encoders."
# names of other architectures' transformers, for the message
OTHER_MODELS = {
    "single_transformer_blocks.": "Flux",
    "joint_blocks.": "Stable Diffusion 3",
    "double_blocks.": "HunyuanVideo or Flux",
    "input_blocks.": "Stable Diffusion or SDXL",
    "down_blocks.": "Stable Diffusion or SDXL",
}


@dataclass(frozen=True, kw_only=True)
class ModelContent:
    """Components with their tensors under diffusers' names.

    kind: "pipeline", "component" or "single file". format: of the tensors' names. configs: of the networks that came
    with one, or whose shapes tell it. folder: where the other files of a pipeline or component lie.
    """

    kind: str
    format: str
    components: Mapping[str, LazyTensors]
    configs: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    folder: Path | None = None

    @property
    def num_bytes(self) -> int:
        return sum(tensor.num_bytes for tensors in self.components.values() for tensor in tensors.values())


def read_model_content(path: Path, *, sample_size: int) -> ModelContent:
    """Find out what a path holds, and open its tensors. Raises: WeightsError for anything unknown."""
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise WeightsError("convert_source_missing", path=str(path))
    if path.suffix not in CHECKPOINT_SUFFIXES:
        raise WeightsError("convert_source_suffix", path=str(path), allowed=list(CHECKPOINT_SUFFIXES))
    tensors = open_checkpoint(path)
    if any(name.startswith(SINGLE_FILE_PREFIX_OF_ALL) for name in tensors):
        return _read_single_file(path, tensors, sample_size=sample_size)
    for prefix in ("module.", "model.", "diffusion_model."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return _make_transformer_content(path, tensors, sample_size=sample_size)


def _read_folder(folder: Path) -> ModelContent:
    if (folder / "model_index.json").is_file():
        found = [each for each in read_components(folder) if each.files]
        tensors = {each.name: _open_files(each.files) for each in found}
        configs = {each.name: read_config_json(each.folder / "config.json") for each in found}
        return ModelContent(kind="pipeline", format="diffusers", components=tensors, configs=configs, folder=folder)
    if not (folder / "config.json").is_file():
        raise WeightsError("convert_folder_unknown", path=str(folder))
    config = read_config_json(folder / "config.json")
    if config.get("_class_name") not in (*TRANSFORMER_CLASSES, CONTROLNET_CLASS):
        raise WeightsError("convert_class_unknown", path=str(folder), class_name=str(config.get("_class_name")))
    name = "controlnet" if config["_class_name"] == CONTROLNET_CLASS else "transformer"
    files = get_weight_files(folder)
    if not files:
        raise WeightsError("component_without_weights", folder=str(folder))
    components = {name: _open_files(files)}
    return ModelContent(
        kind="component", format="diffusers", components=components, configs={name: config}, folder=folder
    )


def _open_files(files: tuple[Path, ...]) -> LazyTensors:
    return {name: tensor for file in files for name, tensor in open_checkpoint(file).items()}


def _make_transformer_content(path: Path, tensors: LazyTensors, *, sample_size: int) -> ModelContent:
    """The content of a transformer or ControlNet alone, under Tencent's or diffusers' names."""
    if "pos_embed.proj.weight" in tensors:
        source_format = "diffusers"
    else:
        source_format, tensors = "tencent", _convert_from_tencent(path, tensors)
    name = "controlnet" if is_controlnet(tensors) else "transformer"
    config = infer_transformer_config(tensors, sample_size=sample_size)
    return ModelContent(kind="component", format=source_format, components={name: tensors}, configs={name: config})


def _convert_from_tencent(path: Path, tensors: LazyTensors) -> LazyTensors:
    unknown = find_unknown_names(tensors)
    if unknown:
        other = next((model for part, model in OTHER_MODELS.items() if any(part in name for name in tensors)), None)
        if other is not None:
            raise WeightsError("convert_other_model", path=str(path), model=other)
        raise WeightsError("convert_names_unknown", path=str(path), names=summarize_names(unknown))
    return convert_to_diffusers(tensors)


def _read_single_file(path: Path, tensors: LazyTensors, *, sample_size: int) -> ModelContent:
    """The content of a file with all components; other heads of the text encoders are left out."""
    components = {
        component: {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for component, prefix in SINGLE_FILE_PREFIXES.items()
    }
    missing = [SINGLE_FILE_PREFIXES[component] for component, found in components.items() if not found]
    if missing:
        raise WeightsError("convert_single_file_incomplete", path=str(path), prefixes=missing)
    transformer = _convert_from_tencent(path, components["transformer"])
    config = infer_transformer_config(transformer, sample_size=sample_size)
    components["transformer"] = transformer
    return ModelContent(kind="single file", format="comfyui", components=components, configs={"transformer": config})
