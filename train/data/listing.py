"""The records of one data set, made from its files by name or from rows of a table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from dianjing.errors import DianjingError, Lines, Message
from dianjing.pipelines.media.video_reading import VIDEO_EXTENSIONS
from dianjing.train.config.data import DatasetConfig
from dianjing.train.data.file_names import (
    CAPTION_SUFFIXES,
    MOTION_SUFFIXES,
    PLAIN_CAPTION_SUFFIXES,
    FileGroup,
    group_files,
)
from dianjing.train.data.samples import ByteSource, MotionLabel, Reason, SampleRecord, assign_language
from dianjing.train.data.table_rows import TableRow, extract_texts, parse_json, read_rows
from dianjing.train.text_files import decode_text, join_captions, normalize_caption

MAX_LISTED = 3  # rejected samples in an error message
Texts = dict[str, str | None]  # captions and motions by the values of CAPTION_SUFFIXES and MOTION_SUFFIXES


@dataclass
class DatasetListing:
    """The records of a data set, reasons for the rejected ones by name, and files that belong to no sample."""

    config: DatasetConfig
    records: list[SampleRecord] = field(default_factory=list)
    rejected: dict[str, Reason] = field(default_factory=dict)
    unused: dict[str, Reason] = field(default_factory=dict)

    def add(
        self,
        name: str,
        source: ByteSource,
        texts: Mapping[str, str | None],
        sidecars: Mapping[str, ByteSource] | None = None,
        strength: float | None = None,
    ) -> None:
        """Add a sample, or the reason why it cannot be used; the data set's settings complete its captions.

        `sidecars` holds a mask, a first frame and a control image by the keys of SIDECARS.
        """
        sidecars, captions = sidecars or {}, self._complete_captions(texts)
        motions = {key: texts.get(key) for key in MOTION_SUFFIXES.values()}
        label, loss_mask = None, self._get_loss_mask(sidecars)
        if "mask" in sidecars and any(motions.values()):
            label, loss_mask = MotionLabel(mask=sidecars["mask"], strength=strength, **motions), None
        elif "mask" in sidecars and name.lower().endswith(VIDEO_EXTENSIONS):
            self.rejected[name] = Message("mask_without_motion")
            return
        if label is None and not any(captions.values()):
            self.rejected[name] = Message("caption_missing")
            return
        self.records.append(
            SampleRecord(
                name=name,
                source=source,
                motion_label=label,
                first_frame=sidecars.get("first_frame"),
                control_image=sidecars.get("control_image"),
                fit=self.config.fit,
                loss_mask=loss_mask,
                caption_dropout=self.config.caption_dropout,
                text_zh=captions["text_zh"],
                text_en=captions["text_en"],
            )
        )

    def _get_loss_mask(self, sidecars: Mapping[str, ByteSource]) -> ByteSource | Literal["alpha"] | None:
        if self.config.loss_mask == "alpha":
            return "alpha"
        return sidecars.get("mask") if self.config.loss_mask == "file" else None

    def _complete_captions(self, texts: Mapping[str, str | None]) -> Texts:
        """Captions with prefix, trigger word and suffix; the default caption if there is none."""
        captions: Texts = {key: texts.get(key) or None for key in CAPTION_SUFFIXES.values()}
        config = self.config
        trigger = config.trigger_word or ""
        default = config.default_caption or trigger
        if default and not any(captions.values()):
            captions = assign_language(default)
        for key, caption in captions.items():
            if caption:
                if trigger.casefold() not in caption.casefold():
                    caption = join_captions(trigger, caption)
                captions[key] = join_captions(join_captions(config.caption_prefix, caption), config.caption_suffix)
        return captions

    def check(self) -> None:
        """Raise DianjingError if there is no record; the message lists the first reasons."""
        if self.records:
            return
        if not self.rejected and not self.unused:
            raise DianjingError("dataset_empty", path=self.config.path)
        listed = list((self.rejected | self.unused).items())[:MAX_LISTED]
        problems = Lines(Message("sample_problem", name=name, reason=reason) for name, reason in listed)
        raise DianjingError("dataset_without_samples", path=self.config.path, problems=problems)


def add_files(listing: DatasetListing, sources: Mapping[str, ByteSource], *, archive: str | None = None) -> None:
    """Add the samples among files, given by relative names with forward slashes.

    Captions stand in files next to an image, or in a metadata.jsonl or metadata.csv of its folder. In reports, the
    members of an archive are named "ARCHIVE!MEMBER".
    """
    prefix = "" if archive is None else f"{archive}!"
    grouped = group_files(sources, caption_suffix=listing.config.caption_extension)
    listing.rejected |= {prefix + name: reason for name, reason in grouped.rejected.items()}
    listing.unused |= {prefix + name: reason for name, reason in grouped.unused.items()}
    rows: dict[str, TableRow] = {}
    for table in grouped.tables:
        rows |= _read_metadata_rows(listing, table, sources, prefix=prefix)
    for group in grouped.groups.values():
        try:
            texts: Texts | DianjingError = _read_texts(group, sources, listing.config)
        except DianjingError as error:
            texts = error
        sidecars = {key: sources[name] for key, name in group.sidecars.items()}
        for name in group.samples:
            row_texts = rows[name].texts if name in rows else {}
            if any(row_texts.values()):
                listing.add(prefix + name, sources[name], row_texts, sidecars, rows[name].strength)
            elif isinstance(texts, DianjingError):
                listing.rejected[prefix + name] = texts
            else:
                listing.add(prefix + name, sources[name], texts, sidecars)


def _read_texts(group: FileGroup, sources: Mapping[str, ByteSource], config: DatasetConfig) -> Texts:
    """The captions and motions of a group. Raises: DianjingError for a file that is no text in UTF-8."""
    texts: Texts = {}
    if ".json" in group.texts:
        content = _read_json(group.texts[".json"], sources)
        if isinstance(content, dict):
            texts |= extract_texts(content, config)
    plain = (config.caption_extension, *PLAIN_CAPTION_SUFFIXES)
    for suffix in plain:
        if suffix and suffix.lower() in group.texts and not any(texts.get(key) for key in CAPTION_SUFFIXES.values()):
            name = group.texts[suffix.lower()]
            caption = normalize_caption(_read_text(name, sources), field=name)
            texts |= assign_language(caption) if caption else {}
    for suffix, key in (CAPTION_SUFFIXES | MOTION_SUFFIXES).items():
        if suffix in group.texts:
            texts[key] = normalize_caption(_read_text(group.texts[suffix], sources), field=group.texts[suffix])
    return texts


def _read_text(name: str, sources: Mapping[str, ByteSource]) -> str:
    try:
        return decode_text(sources[name].read())
    except OSError as error:
        raise DianjingError("sample_file_unreadable", name=name, reason=error.strerror or str(error)) from None
    except DianjingError as error:
        raise DianjingError("caption_file_unusable", name=PurePosixPath(name).name, reason=error) from None


def _read_json(name: str, sources: Mapping[str, ByteSource]) -> Any:
    text = _read_text(name, sources)
    try:
        return parse_json(text)
    except DianjingError as error:
        raise DianjingError("caption_file_unusable", name=PurePosixPath(name).name, reason=error) from None


def _read_metadata_rows(
    listing: DatasetListing, table: str, sources: Mapping[str, ByteSource], *, prefix: str
) -> dict[str, TableRow]:
    """The rows of a metadata table by the names of their files; rows that cannot be used are rejected."""
    rows: dict[str, TableRow] = {}
    try:
        content: Any = decode_text(sources[table].read())
        for row in read_rows(content, PurePosixPath(table).suffix.lower(), listing.config):
            name = str(PurePosixPath(table).parent / row.file_name) if row.file_name else ""
            if row.problem is not None:
                listing.rejected[f"{prefix}{table}:{row.line}"] = row.problem
            elif name not in sources:
                listing.rejected[f"{prefix}{table}:{row.line}"] = Message("listed_file_missing", path=row.file_name)
            else:
                rows[name] = row
    except DianjingError as error:
        listing.rejected[prefix + table] = error
    return rows
