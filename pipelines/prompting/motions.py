"""The motions a small model was taught: what they are called, and how fast each is at full strength."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from dianjing.pipelines.prompting.placement import ZERO_EXTENT, MotionExtent

MOTIONS_FILE = "motions.json"
DEFAULT_SPEED = 0.3  # picture sides a second, where nothing is known


@dataclass(frozen=True, kw_only=True)
class MotionConcept:
    """One motion. At full strength: speed, mean over the object in picture sides a second; reach, how far its middle
    gets to the left, up, to the right and down in a second.
    """

    name: str
    phrases: tuple[str, ...]
    speed: float
    extent: MotionExtent = ZERO_EXTENT


@dataclass(frozen=True)
class MotionVocabulary:
    """All of them; a phrase is known if it says one of theirs."""

    motions: tuple[MotionConcept, ...] = ()

    @classmethod
    def from_file(cls, path: Path) -> "MotionVocabulary":
        """Read [{"name": ..., "phrases": [...], "speed": ..., "reach": [...]}, ...].

        Raises: ValueError for any other content.
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
            raise ValueError(f"{path} is no list of motions ({error!r})") from None
        return cls(tuple(motions))

    def save(self, path: Path) -> None:
        entries = [vars(motion) for motion in self.motions]
        path.write_text(json.dumps(entries, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def find(self, phrase: str) -> MotionConcept | None:
        """The motion whose longest phrasing the phrase contains, as whole words where they have spaces."""
        said = f" {' '.join(phrase.lower().split())} "
        fits = [
            (len(known), motion)
            for motion in self.motions
            for known in motion.phrases
            if (f" {known} " if known.isascii() else known) in said
        ]
        return max(fits, key=lambda fit: fit[0])[1] if fits else None

    def canonicalize(self, phrase: str) -> str:
        """A phrase that names a motion as that motion is most often called in the phrase's language, or as it is."""
        motion = self.find(phrase)
        if motion is None:
            return phrase
        is_english = phrase.isascii()
        return next((known for known in motion.phrases if known.isascii() == is_english), phrase)

    def get_extent(self, phrase: str | None) -> MotionExtent:
        """Of the motion that a phrase names; nowhere for any other, and for what stands still."""
        motion = None if phrase is None else self.find(phrase)
        return ZERO_EXTENT if motion is None else motion.extent

    def get_speed(self, phrase: str, strength: float) -> float:
        """What `strength` (0 to 1) of a phrase is in picture sides a second."""
        motion = self.find(phrase)
        if motion is not None:
            return strength * motion.speed
        return strength * (median(m.speed for m in self.motions) if self.motions else DEFAULT_SPEED)


def _make_extent(left: float, up: float, right: float, down: float) -> MotionExtent:
    return left, up, right, down
