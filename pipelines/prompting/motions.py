"""Motions that a model was trained on: their phrases, and their speed and extent at full strength."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from dianjing.errors import DianjingError, get_language
from dianjing.pipelines.prompting.placement import ZERO_EXTENT, MotionExtent

MOTIONS_FILE = "motions.json"
DEFAULT_SPEED = 0.3  # image sides a second, of an unknown motion of a model without a list


@dataclass(frozen=True, kw_only=True)
class MotionConcept:
    """One motion at full strength.

    phrases: Chinese and English names, the canonical one of each language first. speed: mean over the object in image
    sides a second. extent: how far the object's centre gets to the left, up, to the right and down in a second.
    """

    name: str
    phrases: tuple[str, ...]
    speed: float
    extent: MotionExtent = ZERO_EXTENT


@dataclass(frozen=True)
class MotionVocabulary:
    """All motions of a model; a phrase is known if it contains a phrase of one of them."""

    motions: tuple[MotionConcept, ...] = ()

    @classmethod
    def from_file(cls, path: Path) -> "MotionVocabulary":
        """Read [{"name": ..., "phrases": [...], "speed": ..., "extent": [...]}, ...].

        Raises: DianjingError for any other content.
        """
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            motions = [
                MotionConcept(
                    name=str(e["name"]),
                    phrases=tuple(map(str, e["phrases"])),
                    speed=float(e["speed"]),
                    extent=_make_extent(*map(float, e.get("extent", ZERO_EXTENT))),
                )
                for e in entries
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise DianjingError("motions_file_invalid", path=path, reason=repr(error)) from None
        return cls(tuple(motions))

    def list_phrases(self) -> list[str]:
        """List a phrase of each motion, in the language of messages where the motion has one."""
        is_english = get_language() == "en"
        return [
            next((phrase for phrase in motion.phrases if phrase.isascii() is is_english), motion.phrases[0])
            for motion in self.motions
        ]

    def save(self, path: Path) -> None:
        """Write the motions as JSON."""
        entries = [vars(motion) for motion in self.motions]
        path.write_text(json.dumps(entries, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def find(self, phrase: str) -> MotionConcept | None:
        """Find the motion with the longest phrase that this phrase contains; phrases in ASCII match whole words."""
        padded = f" {' '.join(phrase.lower().split())} "
        matches = [
            (len(known), motion)
            for motion in self.motions
            for known in motion.phrases
            if (f" {known} " if known.isascii() else known) in padded
        ]
        return max(matches, key=lambda match: match[0])[1] if matches else None

    def canonicalize(self, phrase: str) -> str:
        """Replace a phrase that names a motion by the canonical one in the same language; return others unchanged."""
        motion = self.find(phrase)
        if motion is None:
            return phrase
        is_english = phrase.isascii()
        return next((known for known in motion.phrases if known.isascii() == is_english), phrase)

    def get_extent(self, phrase: str | None) -> MotionExtent:
        """Extent of the motion that a phrase names; zeros for an unknown motion and for None."""
        motion = None if phrase is None else self.find(phrase)
        return ZERO_EXTENT if motion is None else motion.extent

    def get_speed(self, phrase: str, strength: float) -> float:
        """Convert a strength (0 to 1) of a motion to a speed in image sides a second."""
        motion = self.find(phrase)
        if motion is not None:
            return strength * motion.speed
        return strength * (median(m.speed for m in self.motions) if self.motions else DEFAULT_SPEED)


def _make_extent(left: float, up: float, right: float, down: float) -> MotionExtent:
    return left, up, right, down
