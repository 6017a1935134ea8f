"""The history of a run: the settings and the samples of each part that was trained, and what changed between them.

Checkpoints carry it, so that it always fits the weights beside it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dianjing.errors import DianjingError, Lines, Message
from dianjing.pipelines.media.atomic import atomic_file
from dianjing.train.trainer.checkpoint import Checkpoint

HISTORY_KEY = "history"  # in the state of a checkpoint
MAX_LISTED_NAMES = 3
FREE_MODEL_KEYS = {  # settings of [model] that change neither the weights nor what they mean
    "model.attention_backend",
    "model.compile_full_model",
    "model.gradient_checkpointing_interval",
    "model.lora.dropout",
    "model.start_from",
    "model.tokenizers",
}
FIXED_KEYS = {  # outside [model]
    "task",
    "optimizer.kind",
    "objective.beta_start",
    "objective.beta_end",
    "objective.flow_shift",
    "objective.prediction_type",
    "objective.terminal_snr",
}

Samples = Mapping[str, str]  # the name of each sample -> a hash of its content and captions


@dataclass(frozen=True, kw_only=True)
class RunPart:
    """A part of a run that was trained with the same settings and samples, from `first_step` on.

    settings: the run file, flattened to "section.key". samples: the hash that names their file; None for generated
    ones.
    """

    first_step: int
    settings: dict[str, Any]
    samples: str | None


@dataclass(frozen=True, kw_only=True)
class SettingChange:
    """A setting whose value differs between two parts of a run."""

    key: str
    before: Any
    after: Any

    @property
    def is_possible(self) -> bool:
        """True if weights, averages and moments of the part before can be trained on with the new value."""
        if self.key == "optimizer.ema_snapshot_every":
            return self.before is not None or self.after is None  # averages start with the run
        return self.key not in FIXED_KEYS and (not self.key.startswith("model.") or self.key in FREE_MODEL_KEYS)

    def to_message(self) -> Message:
        return Message("setting_changed", key=self.key, before=_to_toml(self.before), after=_to_toml(self.after))


def flatten_settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"run": {"seed": 0}} -> {"run.seed": 0}, for the JSON dump of a run file."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        is_section = isinstance(value, Mapping)
        flat |= flatten_settings(value, f"{prefix}{key}.") if is_section else {f"{prefix}{key}": value}
    return flat


def list_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[SettingChange]:
    """All settings that differ, in the order of the newer run file; the folder of the run is no such setting."""
    keys = dict.fromkeys([*after, *before])
    return [
        SettingChange(key=key, before=before.get(key), after=after.get(key))
        for key in keys
        if before.get(key) != after.get(key) and key != "run.folder"
    ]


def read_history(checkpoint: Checkpoint | None) -> list[RunPart]:
    """The parts that led to a checkpoint, oldest first; empty without one."""
    return [] if checkpoint is None else [RunPart(**part) for part in checkpoint.load_state().get(HISTORY_KEY, [])]


def write_history(parts: Sequence[RunPart]) -> list[dict[str, Any]]:
    """The parts as JSON."""
    return [asdict(part) for part in parts]


def check_resumable(history: Sequence[RunPart], settings: Mapping[str, Any], step: int) -> list[SettingChange]:
    """The settings that changed since the last part, for a run that goes on from `step`.

    Raises: DianjingError for changes that cannot be combined with what is trained, and for an end before `step`.
    """
    if settings["run.total_steps"] < step:
        raise DianjingError("run_is_longer", total_steps=settings["run.total_steps"], step=step)
    changes = list_changes(history[-1].settings, settings) if history else []
    if impossible := [change.to_message() for change in changes if not change.is_possible]:
        raise DianjingError("settings_not_resumable", step=step, changes=Lines(impossible))
    return changes


def extend_history(history: Sequence[RunPart], part: RunPart) -> list[RunPart]:
    """The history with a new part, or as it is if nothing changed; a part that trained no step is left out."""
    if history and (history[-1].settings, history[-1].samples) == (part.settings, part.samples):
        return [*history]
    return [*(each for each in history if each.first_step < part.first_step), part]


def save_samples(folder: Path, samples: Samples | None) -> str | None:
    """Write the samples of a part, unless they are there already; returns the hash that names the file."""
    if samples is None:
        return None
    text = json.dumps(samples, ensure_ascii=False, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = _get_samples_path(folder, digest)
    if not path.exists():
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return digest


def describe_sample_changes(folder: Path, before: str | None, after: str | None) -> Message | None:
    """Samples that were added, removed or changed; None if there are none, or the earlier ones are not known."""
    if before is None or after is None or before == after or not _get_samples_path(folder, before).exists():
        return None
    old, new = (json.loads(_get_samples_path(folder, digest).read_text(encoding="utf-8")) for digest in (before, after))
    added, removed = sorted(new.keys() - old.keys()), sorted(old.keys() - new.keys())
    edited = sorted(name for name in new.keys() & old.keys() if new[name] != old[name])
    parts = []
    if added:
        parts.append(Message("samples_added", count=len(added), names=_shorten(added)))
    if removed:
        parts.append(Message("samples_removed", count=len(removed), names=_shorten(removed)))
    if edited:
        parts.append(Message("samples_edited", count=len(edited), names=_shorten(edited)))
    return Message("samples_changed", parts=parts)


def _shorten(names: list[str]) -> list[str]:
    return names if len(names) <= MAX_LISTED_NAMES else [*names[:MAX_LISTED_NAMES], "…"]


def describe_history(folder: Path, history: Sequence[RunPart]) -> Iterator[tuple[int, list[Message]]]:
    """The first step of each later part, with what changed there."""
    for before, after in pairwise(history):
        messages = [change.to_message() for change in list_changes(before.settings, after.settings)]
        samples = describe_sample_changes(folder, before.samples, after.samples)
        yield after.first_step, messages if samples is None else [*messages, samples]


def count_samples(history: Sequence[RunPart], last_step: int) -> int:
    """Samples that were trained on up to a step, with the batch size of each part."""
    ends = [part.first_step for part in history[1:]] + [last_step]
    return sum(
        (end - part.first_step) * part.settings["run.batch_size"] for part, end in zip(history, ends, strict=True)
    )


def _get_samples_path(folder: Path, digest: str) -> Path:
    return folder / f"data-{digest}.json"


def _to_toml(value: Any) -> str:
    return "-" if value is None else json.dumps(value, ensure_ascii=False)
