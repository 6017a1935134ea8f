"""Interface of instruction parsers, and the detection of a text's language."""

import re
from dataclasses import dataclass
from typing import Protocol

from dianjing.errors import Language
from dianjing.pipelines.conversation.edits import Edit
from dianjing.pipelines.conversation.scene import Scene
from dianjing.pipelines.prompting.vocabulary import HAN_RANGES

HAN_PATTERN = re.compile(f"[{HAN_RANGES}]")


@dataclass(frozen=True, kw_only=True)
class ParsedInstruction:
    """Edits that a text asks for, in order, and hints for its author, one sentence each."""

    edits: tuple[Edit, ...]
    hints: tuple[str, ...] = ()


class InstructionParser(Protocol):
    """Turns a text into edits of the scene; None is the scene before the first image."""

    def parse(self, text: str, scene: Scene | None) -> ParsedInstruction:
        """Parse a text. Raises: EditError for a text without an instruction that is understood."""


def detect_language(text: str) -> Language:
    """Return "zh" for a text with any Chinese character, else "en"."""
    return "zh" if HAN_PATTERN.search(text) else "en"
