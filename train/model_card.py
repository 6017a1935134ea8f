"""The model card of an export: what it is, how to load it, what it was trained on, and its metrics."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from huggingface_hub import ModelCardData

from dianjing import __version__
from dianjing.errors import Message
from dianjing.train.config.run_file import AnyRunConfig
from dianjing.train.tasks.registry import get_task_definition
from dianjing.train.trainer.divergence import find_divergence
from dianjing.train.trainer.history import RunPart, count_samples, describe_history
from dianjing.train.trainer.logging import read_metrics

PRIVATE_FIELDS = {  # paths of the machine that trained it
    "run": {"folder"},
    "data": {"datasets_file", "cache_folder"},
    "model": {"name", "vae", "start_from", "tokenizers"},
}


def write_model_card(
    folder: Path,
    config: AnyRunConfig,
    export_metrics: Mapping[str, Any],
    *,
    history: Sequence[RunPart] = (),
    sigma_rel: float | None = None,
) -> Path:
    """Write README.md of an export, with its own metrics and those of the run's metrics.jsonl.

    `history` holds the parts of a run whose settings or samples changed on the way; `sigma_rel` is the length of the
    moving average, if it was chosen after the run.
    """
    sections = get_task_definition(config).make_card_sections(config, folder)
    records = read_metrics(config.run.folder)
    report = config.run.folder / "data.json"
    data = json.loads(report.read_text(encoding="utf-8"))["summary"] if report.exists() else "the sticker world"
    average = "" if sigma_rel is None else f" The weights are a moving average of length {sigma_rel:g} of the run."
    rows = "\n".join(
        f"| {name} | {value} |" for name, value in _iterate_metrics(config, records, export_metrics, history)
    )
    warnings = "".join(f"\n{warning}.\n" for warning in find_divergence(records, config.run.total_steps))
    settings = config.model_dump(mode="json", exclude_unset=True, exclude=PRIVATE_FIELDS)
    tags = ["dianjing", config.task, *sections.tags]
    front_matter = ModelCardData(library_name="diffusers", tags=tags, **sections.front_matter).to_yaml()
    text = (
        f"---\n{front_matter}\n---\n\n# {config.run.folder.name}\n\n"
        f"{sections.description}, trained by Dianjing {__version__}.{average}\n\n"
        f"## How to load it\n\n```python\n{sections.usage}\n```\n\n## Data\n\n{data}.\n\n"
        f"## Metrics\n\n| | |\n|---|---|\n{rows}\n{warnings}\n"
        f"## Settings\n\n```json\n{json.dumps(settings, ensure_ascii=False, indent=1)}\n```\n"
        f"{_format_history(config.run.folder, history)}"
    )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def _format_history(folder: Path, history: Sequence[RunPart]) -> str:
    """A list of what was changed on the way, in which the settings above are the last ones; empty without changes."""
    lines = [
        f"- from step {step}: {'; '.join(str(each) for each in messages if not _is_private(each))}"
        for step, messages in describe_history(folder, history)
    ]
    return (
        "\n".join(["\nThese settings are the last ones; the run was resumed with changes:\n", *lines, ""])
        if lines
        else ""
    )


def _is_private(message: Message) -> bool:
    section, _, key = str(message.arguments.get("key", "")).partition(".")
    return key in PRIVATE_FIELDS.get(section, ())


def _iterate_metrics(
    config: AnyRunConfig,
    records: Sequence[Mapping[str, float]],
    export_metrics: Mapping[str, Any],
    history: Sequence[RunPart],
) -> Iterator[tuple[str, str]]:
    """Names and values of the table: the last of each metric, and the median speed."""
    last: dict[str, float] = {}
    for record in records:
        last |= record
    steps = int(last.get("step", 0))
    yield "steps", f"{steps:,}"
    yield "samples", f"{count_samples(history, steps) if history else steps * config.run.batch_size:,}"
    for name, value in export_metrics.items():
        yield name, f"{value:,}" if isinstance(value, int) else f"{value}"
    for name in ("loss", *sorted(key for key in last if key.startswith("validation"))):
        if name in last:
            yield name, f"{last[name]:.4g}"
    if speeds := [record["samples_per_s"] for record in records if "samples_per_s" in record]:
        yield "samples/s", f"{median(speeds):.4g}"
        yield "peak memory", f"{max(record.get('peak_memory_gib', 0) for record in records):.2f} GiB"
