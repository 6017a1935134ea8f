"""Names, in Chinese and English, of the objects, colours and backgrounds that a small model was trained on."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dianjing.errors import DianjingError

CONCEPTS_FILE = "concepts.json"


@dataclass(frozen=True, kw_only=True)
class ObjectConcept:
    """Names of an object, the canonical one first.

    plurals_en: the plural of each of names_en, "" for one that has none.
    """

    names_en: tuple[str, ...]
    plurals_en: tuple[str, ...]
    names_zh: tuple[str, ...]
    measure_word_zh: str
    is_colourable: bool


@dataclass(frozen=True, kw_only=True)
class ColourConcept:
    """Names of a colour that colourable objects can have."""

    name_en: str
    name_zh: str


@dataclass(frozen=True, kw_only=True)
class BackgroundConcept:
    """Names of a background: its noun (grass, 草地) and its location phrases (on the grass, 草地上)."""

    name_en: str
    name_zh: str
    location_phrases_en: tuple[str, ...]
    location_phrases_zh: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ConceptVocabulary:
    """All concepts of a model; elsewhere each is identified by its first English name."""

    objects: tuple[ObjectConcept, ...]
    colours: tuple[ColourConcept, ...]
    backgrounds: tuple[BackgroundConcept, ...]

    @classmethod
    def from_file(cls, path: Path) -> "ConceptVocabulary":
        """Read a file written by `save`.

        Raises: DianjingError for any other content.
        """
        try:
            lists = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                objects=tuple(ObjectConcept(**_convert_lists_to_tuples(entry)) for entry in lists["objects"]),
                colours=tuple(ColourConcept(**_convert_lists_to_tuples(entry)) for entry in lists["colours"]),
                backgrounds=tuple(
                    BackgroundConcept(**_convert_lists_to_tuples(entry)) for entry in lists["backgrounds"]
                ),
            )
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DianjingError("concepts_file_invalid", path=path, reason=repr(error)) from None

    def save(self, path: Path) -> None:
        """Write JSON, one concept a line."""
        lists = {
            name: "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n]"
            for name, entries in asdict(self).items()
        }
        path.write_text("{" + ",\n".join(f'"{name}": {text}' for name, text in lists.items()) + "}\n", encoding="utf-8")

    def find_object(self, name: str) -> ObjectConcept | None:
        """Find an object by any name in either language; a canonical name goes before a synonym."""
        return self._objects_by_name.get(name)

    def find_colour(self, name: str) -> ColourConcept | None:
        """Find a colour by its name in either language, with or without 色."""
        return next((e for e in self.colours if name in (e.name_en, e.name_zh, e.name_zh[:-1])), None)

    def find_background(self, name: str) -> BackgroundConcept | None:
        """Find a background by its noun or a location phrase."""
        return next(
            (
                e
                for e in self.backgrounds
                if name in (e.name_en, e.name_zh, *e.location_phrases_en, *e.location_phrases_zh)
            ),
            None,
        )

    @cached_property
    def _objects_by_name(self) -> dict[str, ObjectConcept]:
        by_name = {entry.names_en[0]: entry for entry in self.objects}
        for entry in self.objects:
            for name in (*entry.names_en, *entry.plurals_en, *entry.names_zh):
                by_name.setdefault(name, entry)
        by_name.pop("", None)
        return by_name


def _convert_lists_to_tuples(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(map(str, value)) if isinstance(value, list) else value for name, value in entry.items()}
