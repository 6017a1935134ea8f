"""New run files: the commented template, or one for a data set, also of kohya's sd-scripts."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dianjing.errors import DianjingError, Message
from dianjing.train.config.data import DatasetConfig
from dianjing.train.config.run_file import TEMPLATE_FOLDER, apply_override, validate_config
from dianjing.train.data.kohya import ImportedRun, import_kohya_file, import_kohya_folders
from dianjing.train.data.sample_prompts import choose_prompts
from dianjing.train.data.samples import SampleRecord
from dianjing.train.data.sources import list_dataset
from dianjing.train.trainer.history import flatten_settings
from dianjing.weights.registry import get_finetune_defaults

DATASETS_FILE = "datasets.toml"
DEFAULT_MODEL = "sticker"
FINETUNE_KEYS = {  # of the run file, by field of FinetuneDefaults
    "size_px": "data.size_px",
    "total_steps": "run.total_steps",
    "batch_size": "run.batch_size",
    "learning_rate": "optimizer.learning_rate",
    "rank": "model.lora.rank",
    "target_modules": "model.lora.target_modules",
    "ema_decay": "optimizer.ema_decay",
    "prior_preservation": "objective.prior_preservation",
    "timestep_sampling": "objective.timestep_sampling",
    "logit_mean": "objective.logit_mean",
    "mixed_precision": "run.mixed_precision",
    "gradient_checkpointing_interval": "model.gradient_checkpointing_interval",
}


def write_run_files(
    path: Path, source: Path | None = None, overrides: Sequence[str] = ()
) -> tuple[list[Path], list[Message]]:
    """Write a commented run file with the settings of its model, and next to it the data set file that it names.

    source: a data set to train on, or a folder or data set file of sd-scripts; None: the template, whose data set file
    is written unless there is one. overrides: settings to write, of the form `a.b=c`; model.name chooses the model.
    Returns the written files, and notes on settings that could not be kept.
    Raises: DianjingError if there is a run file already, no folder for it, no data in `source`, or an unknown setting;
    nothing is written then.
    """
    datasets_path = path.parent / DATASETS_FILE
    if path.exists():
        raise DianjingError("run_file_exists", path=path)
    if not path.parent.is_dir():
        raise DianjingError("folder_missing", folder=path.parent)
    if source is not None and datasets_path.exists():
        raise DianjingError("run_file_exists", path=datasets_path)
    imported = ImportedRun() if source is None else import_run(source)
    settings = {"data.datasets_file": datasets_path.as_posix(), **imported.settings, **parse_overrides(overrides)}
    settings = get_model_settings(str(settings.get("model.name", DEFAULT_MODEL))) | settings
    run = set_values((TEMPLATE_FOLDER / "run.toml").read_text(encoding="utf-8"), settings)
    datasets = (TEMPLATE_FOLDER / DATASETS_FILE).read_text(encoding="utf-8")
    if source is not None:
        datasets = datasets.partition("\n[[datasets]]")[0] + "\n" + format_datasets(imported)
    path.write_text(run, encoding="utf-8")
    if datasets_path.exists():
        return [path], imported.notes
    datasets_path.write_text(datasets, encoding="utf-8")
    return [path, datasets_path], imported.notes


def get_model_settings(name: str) -> dict[str, Any]:
    """The settings for fine-tuning a model, by "section.key"."""
    return {FINETUNE_KEYS[field]: value for field, value in asdict(get_finetune_defaults(name)).items()}


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Overrides of the form `a.b=c`, by "section.key"."""
    tree: dict[str, Any] = {}
    for override in overrides:
        apply_override(tree, override)
    return flatten_settings(tree)


def import_run(source: Path) -> ImportedRun:
    """The data sets and settings that `source` stands for, with sample prompts from their captions.

    Raises: DianjingError for a path that is no data set, and for a data set without captions.
    """
    if not source.exists():
        raise DianjingError("import_source_missing", path=source)
    imported: ImportedRun | None = None
    if source.suffix.lower() == ".toml" or _is_kohya_json(source):
        imported = import_kohya_file(source)
    elif source.is_dir():
        imported = import_kohya_folders(source)
    if imported is None:
        imported = ImportedRun(datasets=[{"path": str(source)}])
    records: list[SampleRecord] = []
    for dataset in imported.datasets:
        dataset["path"] = Path(dataset["path"]).absolute().as_posix()
        records += list_dataset(validate_config(DatasetConfig, dataset, name=str(source))).records
    imported.settings["samples.prompts"] = list(choose_prompts(records))
    return imported


def _is_kohya_json(path: Path) -> bool:
    """True for a JSON file with the key "datasets", whose other use is that of a table."""
    if path.suffix.lower() != ".json":
        return False
    try:
        tree = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(tree, dict) and "datasets" in tree


def set_values(text: str, settings: Mapping[str, Any]) -> str:
    """Set values by "section.key" in the text of a run file; comments stay, commented-out settings become active.

    Raises: DianjingError for a setting that the text does not have.
    """
    for name, value in settings.items():
        section, _, key = name.rpartition(".")
        head, header, rest = text.partition(f"[{section}]\n")
        body, next_header, tail = rest.partition("\n[")
        line = re.compile(rf"^(# )?{re.escape(key)} = (\[[^\]]*\]|\"[^\"]*\"|[^\s#]+)( *)", re.MULTILINE)
        match = line.search(body)
        if not header or match is None:
            raise DianjingError("template_key_unknown", key=name)
        formatted = format_toml_value(value)
        if formatted != match[2]:  # a commented-out default stays one
            setting = f"{key} = {formatted}"
            blanks = " " * max(1, len(match[0]) - len(setting)) if match[3] else ""  # comments stay in their column
            body = body[: match.start()] + setting + blanks + body[match.end() :]
        text = head + header + body + next_header + tail
    return text


def format_toml_value(value: Any) -> str:
    """A value as TOML: a text, number, boolean, or a list of them."""
    return json.dumps(value, ensure_ascii=False)  # a subset of TOML for these types


def format_datasets(imported: ImportedRun) -> str:
    """The tables of a data set file, below comments on what could not be kept."""
    notes = "".join(f"# {note}\n" for note in imported.notes)
    tables = [
        "[[datasets]]\n" + "".join(f"{k} = {format_toml_value(v)}\n" for k, v in d.items()) for d in imported.datasets
    ]
    return "\n".join([*([notes] if notes else []), *tables])
