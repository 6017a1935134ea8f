"""The motions a small model was taught: what they are called, and how fast each is at full strength."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from dianjing.pipelines.staging import NOWHERE, Reach

FILE_NAME = "motions.json"
UNKNOWN_SPEED = 0.3  # picture sides a second, where nothing is known


@dataclass(frozen=True, kw_only=True)
class Motion:
    """One motion. At full strength: speed, mean over the object in picture sides a second; reach, how far its middle
    gets to the left, up, to the right and down in a second.
    """

    name: str
    phrases: tuple[str, ...]
    speed: float
    reach: Reach = NOWHERE


@dataclass(frozen=True)
class Motions:
    """All of them; a phrase is known if it says one of theirs."""

    motions: tuple[Motion, ...] = ()

    @classmethod
    def from_file(cls, path: Path) -> "Motions":
        """Read [{"name": ..., "phrases": [...], "speed": ..., "reach": [...]}, ...].

        Raises: ValueError for any other content.
        """
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            motions = [
                Motion(
                    name=str(e["name"]), phrases=tuple(map(str, e["phrases"])), speed=float(e["speed"]),
                    reach=_reach(*map(float, e.get("reach", NOWHERE))),
                )
                for e in entries
            ]  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no list of motions ({error!r})") from None
        return cls(tuple(motions))

    def save(self, path: Path) -> None:
        entries = [vars(motion) for motion in self.motions]
        path.write_text(json.dumps(entries, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def find(self, phrase: str) -> Motion | None:
        """The motion whose longest phrasing the phrase contains, as whole words where they have spaces."""
        said = f" {' '.join(phrase.lower().split())} "
        fits = [
            (len(known), motion)
            for motion in self.motions
            for known in motion.phrases
            if (f" {known} " if known.isascii() else known) in said
        ]
        return max(fits, key=lambda fit: fit[0])[1] if fits else None

    def usual(self, phrase: str) -> str:
        """A phrase that names a motion as that motion is most often called in the phrase's language, or as it is."""
        motion = self.find(phrase)
        if motion is None:
            return phrase
        is_english = phrase.isascii()
        return next((known for known in motion.phrases if known.isascii() == is_english), phrase)

    def reach(self, phrase: str | None) -> Reach:
        """Of the motion that a phrase names; nowhere for any other, and for what stands still."""
        motion = None if phrase is None else self.find(phrase)
        return NOWHERE if motion is None else motion.reach

    def speed(self, phrase: str, strength: float) -> float:
        """What `strength` (0 to 1) of a phrase is in picture sides a second."""
        motion = self.find(phrase)
        if motion is not None:
            return strength * motion.speed
        return strength * (median(m.speed for m in self.motions) if self.motions else UNKNOWN_SPEED)


def _reach(left: float, up: float, right: float, down: float) -> Reach:
    return left, up, right, down
