"""What a small model can draw, by name in Chinese and English: objects, colours, backgrounds."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

CONCEPTS_FILE = "concepts.json"


@dataclass(frozen=True, kw_only=True)
class ObjectConcept:
    """An object; the usual name comes first. plurals_en stand under names_en, "" where a name does not count."""

    names_en: tuple[str, ...]
    plurals_en: tuple[str, ...]
    names_zh: tuple[str, ...]
    measure_word_zh: str
    is_colourable: bool


@dataclass(frozen=True, kw_only=True)
class ColourConcept:
    """A colour that some objects take."""

    name_en: str
    name_zh: str


@dataclass(frozen=True, kw_only=True)
class BackgroundConcept:
    """A background: its noun (grass, 草地), and how people say that something is there (on the grass, 草地上)."""

    name_en: str
    name_zh: str
    location_phrases_en: tuple[str, ...]
    location_phrases_zh: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ConceptVocabulary:
    """All of them; the first English name of each stands for it elsewhere."""

    objects: tuple[ObjectConcept, ...]
    colours: tuple[ColourConcept, ...]
    backgrounds: tuple[BackgroundConcept, ...]

    @classmethod
    def from_file(cls, path: Path) -> "ConceptVocabulary":
        """Read what `save` writes.

        Raises: ValueError for any other content.
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
            raise ValueError(f"{path} holds no names of objects, colours and backgrounds ({error!r})") from None

    def save(self, path: Path) -> None:
        lists = {
            kind: "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n]"
            for kind, entries in asdict(self).items()
        }
        path.write_text("{" + ",\n".join(f'"{kind}": {text}' for kind, text in lists.items()) + "}\n", encoding="utf-8")

    def find_object(self, name: str) -> ObjectConcept | None:
        """By any name in either language; the usual name of one goes before the synonym of another."""
        return self._objects_by_name.get(name)

    def find_colour(self, name: str) -> ColourConcept | None:
        return next((e for e in self.colours if name in (e.name_en, e.name_zh, e.name_zh[:-1])), None)

    def find_background(self, name: str) -> BackgroundConcept | None:
        """By its noun, or by where something is."""
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
        found = {entry.names_en[0]: entry for entry in self.objects}
        for entry in self.objects:
            for name in (*entry.names_en, *entry.plurals_en, *entry.names_zh):
                found.setdefault(name, entry)
        found.pop("", None)
        return found


def _convert_lists_to_tuples(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(map(str, value)) if isinstance(value, list) else value for name, value in entry.items()}
