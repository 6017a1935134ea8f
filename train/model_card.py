"""The model card of an export: what it is, how it is loaded, what it was trained on, and how well."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from huggingface_hub import ModelCardData

from dianjing import __version__
from dianjing.train.config.autoencoder import AutoencoderRunConfig
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.config.run_file import AnyRunConfig
from dianjing.train.config.segmenter import SegmenterRunConfig
from dianjing.weights import registry

PRIVATE_FIELDS = {  # paths of the machine it was trained on
    "run": {"folder"},
    "data": {"datasets_file", "cache_folder"},
    "model": {"name", "vae", "start_from", "tokenizers"},
}
DESCRIPTIONS = {
    "lora": "An adapter",
    "all": "All weights, fine-tuned,",
    "motion": "Motion blocks and clicks",
    "controlnet": "A ControlNet for line art",
}
ADAPTER_USAGE = """\
from diffusers import {scheduler}
from dianjing import TextToImagePipeline

pipe = TextToImagePipeline.from_pretrained("{base}")
pipe.load_lora_weights("FOLDER")
pipe.scheduler = {scheduler}.from_pretrained("FOLDER", subfolder="scheduler")"""
CONTROLNET_USAGE = """\
from diffusers import HunyuanDiT2DControlNetModel, {scheduler}
from dianjing import TextToImagePipeline
from dianjing.pipelines.controlnet import line_art

controlnet = HunyuanDiT2DControlNetModel.from_pretrained("FOLDER")
pipe = TextToImagePipeline.from_pretrained("{base}", controlnet=controlnet)
pipe.scheduler = {scheduler}.from_pretrained("FOLDER", subfolder="scheduler")
image = pipe("...", control_image=line_art(picture)).images[0]"""
PIPELINE_USAGE = """\
from dianjing import {pipeline}

pipe = {pipeline}.from_pretrained("FOLDER")"""
AUTOENCODER_USAGE = """\
from diffusers import AutoencoderKL

vae = AutoencoderKL.from_pretrained("FOLDER/vae")"""
SEGMENTER_USAGE = """\
from dianjing.pipelines.segmentation.unet import OwnSegmenter

segmenter = OwnSegmenter.from_pretrained("FOLDER/segmenter")"""


def write_model_card(
    folder: Path, config: AnyRunConfig, export_metrics: Mapping[str, Any], *, sigma_rel: float | None = None
) -> Path:
    """README.md of an export; figures are the export's own, the others come from the run's metrics.jsonl.

    sigma_rel: of the average, where its length was chosen after the run.
    """
    metrics = config.run.folder / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()] if metrics.exists() else []
    report = config.run.folder / "data.json"
    data = json.loads(report.read_text(encoding="utf-8"))["summary"] if report.exists() else "the sticker world"
    average = "" if sigma_rel is None else f" Weights are a moving average of length {sigma_rel:g} of the run."
    rows = "\n".join(f"| {name} | {value} |" for name, value in _iterate_metrics(config, lines, export_metrics))
    given = config.model_dump(mode="json", exclude_unset=True, exclude=PRIVATE_FIELDS)
    settings = json.dumps(given, ensure_ascii=False, indent=1)
    text = (
        f"---\n{_make_front_matter(config)}\n---\n\n# {config.run.folder.name}\n\n{_describe_model(config)}{average}\n\n"
        f"## How to load it\n\n```python\n{_get_usage(config, folder)}\n```\n\n## Data\n\n{data}.\n\n"
        f"## Figures\n\n| | |\n|---|---|\n{rows}\n\n## Settings\n\n```json\n{settings}\n```\n"
    )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def _make_front_matter(config: AnyRunConfig) -> str:
    """What a hub reads of it."""
    tags = ["dianjing", config.task]
    known: dict[str, Any] = {}
    if isinstance(config, FinetuneRunConfig):
        tags.append(config.model.trainable)
        entry = next((entry for entry in registry.MODELS if entry.name == config.model.name), None)
        if entry is not None:
            known["license"] = entry.licence.lower()
        if not Path(config.model.name).exists() and (entry is None or entry.bundled_folder is None):
            known["base_model"] = config.model.name if entry is None else entry.source
    return ModelCardData(library_name="diffusers", tags=tags, **known).to_yaml()


def _describe_model(config: AnyRunConfig) -> str:
    by = f"trained by Dianjing {__version__}"
    if isinstance(config, FinetuneRunConfig):
        encoders = " with both text encoders" if config.model.text_encoders == "joint" else ""
        return f"{DESCRIPTIONS[config.model.trainable]} for `{_get_base_name(config)}`{encoders}, {by}."
    return f"A model of task `{config.task}`, {by}."


def _get_base_name(config: FinetuneRunConfig) -> str:
    """Its public name, or the last part of a path."""
    return Path(config.model.name).name if Path(config.model.name).exists() else config.model.name


def _get_usage(config: AnyRunConfig, folder: Path) -> str:
    if isinstance(config, AutoencoderRunConfig):
        return AUTOENCODER_USAGE
    if isinstance(config, SegmenterRunConfig):
        return SEGMENTER_USAGE
    if not isinstance(config, FinetuneRunConfig):
        return PIPELINE_USAGE.format(pipeline="TextToImagePipeline")
    if config.model.trainable in ("lora", "controlnet"):
        found = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        template = ADAPTER_USAGE if config.model.trainable == "lora" else CONTROLNET_USAGE
        return template.format(base=_get_base_name(config), scheduler=found["_class_name"])
    return PIPELINE_USAGE.format(pipeline="TextToVideoPipeline" if config.data.num_frames else "TextToImagePipeline")


def _iterate_metrics(
    config: AnyRunConfig, records: Sequence[Mapping[str, float]], export_metrics: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """The last of each, and of the speed the median."""
    last: dict[str, float] = {}
    for line in records:
        last |= line
    steps = int(last.get("step", 0))
    yield "steps", f"{steps:,}"
    yield "samples", f"{steps * config.run.batch_size:,}"
    for name, value in export_metrics.items():
        yield name, f"{value:,}" if isinstance(value, int) else f"{value}"
    for name in ("loss", *sorted(key for key in last if key.startswith("validation"))):
        if name in last:
            yield name, f"{last[name]:.4g}"
    if speeds := [line["samples_per_s"] for line in records if "samples_per_s" in line]:
        yield "samples/s", f"{median(speeds):.4g}"
        yield "peak memory", f"{max(line.get('peak_memory_gib', 0) for line in records):.2f} GiB"
