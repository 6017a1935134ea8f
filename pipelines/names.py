"""What a small model can draw, by name in Chinese and English: objects, colours, backgrounds."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

FILE_NAME = "names.json"


@dataclass(frozen=True, kw_only=True)
class ObjectName:
    """An object; the usual name comes first. plurals_en stand under names_en, "" where a name does not count."""

    names_en: tuple[str, ...]
    plurals_en: tuple[str, ...]
    names_zh: tuple[str, ...]
    measure_zh: str
    takes_colour: bool


@dataclass(frozen=True, kw_only=True)
class ColourName:
    """A colour that some objects take."""

    name_en: str
    name_zh: str


@dataclass(frozen=True, kw_only=True)
class BackgroundName:
    """A background: its noun (grass, 草地), and how people say that something is there (on the grass, 草地上)."""

    name_en: str
    name_zh: str
    where_en: tuple[str, ...]
    where_zh: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Names:
    """All of them; the first English name of each stands for it elsewhere."""

    objects: tuple[ObjectName, ...]
    colours: tuple[ColourName, ...]
    backgrounds: tuple[BackgroundName, ...]

    @classmethod
    def from_file(cls, path: Path) -> "Names":
        """Read what `save` writes.

        Raises: ValueError for any other content.
        """
        try:
            lists = json.loads(path.read_text(encoding="utf-8"))
            kinds = (("objects", ObjectName), ("colours", ColourName), ("backgrounds", BackgroundName))
            return cls(**{kind: tuple(make(**_frozen(entry)) for entry in lists[kind]) for kind, make in kinds})  # type: ignore[arg-type]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} holds no names of objects, colours and backgrounds ({error!r})") from None

    def save(self, path: Path) -> None:
        lists = {
            kind: "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n]"
            for kind, entries in asdict(self).items()
        }
        path.write_text("{" + ",\n".join(f'"{kind}": {text}' for kind, text in lists.items()) + "}\n", encoding="utf-8")

    def find_object(self, name: str) -> ObjectName | None:
        """By any name in either language; the usual name of one goes before the synonym of another."""
        return self._objects.get(name)

    def find_colour(self, name: str) -> ColourName | None:
        return next((e for e in self.colours if name in (e.name_en, e.name_zh, e.name_zh[:-1])), None)

    def find_background(self, name: str) -> BackgroundName | None:
        """By its noun, or by where something is."""
        return next(
            (e for e in self.backgrounds if name in (e.name_en, e.name_zh, *e.where_en, *e.where_zh)),
            None,
        )

    @cached_property
    def _objects(self) -> dict[str, ObjectName]:
        found = {entry.names_en[0]: entry for entry in self.objects}
        for entry in self.objects:
            for name in (*entry.names_en, *entry.plurals_en, *entry.names_zh):
                found.setdefault(name, entry)
        found.pop("", None)
        return found


def _frozen(entry: dict[str, object]) -> dict[str, object]:
    return {name: tuple(map(str, value)) if isinstance(value, list) else value for name, value in entry.items()}
