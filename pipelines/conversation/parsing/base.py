"""What every rewriter of a conversation does: a text and the scene so far become edits."""

import re
from dataclasses import dataclass
from typing import Protocol

from dianjing.pipelines.conversation.edits import Edit
from dianjing.pipelines.conversation.scene import Scene
from dianjing.pipelines.prompting.vocabulary import HAN_RANGES


@dataclass(frozen=True, kw_only=True)
class ParsedInstruction:
    """The edits that were asked for, in order, and hints for whoever asked: one plain sentence each."""

    edits: tuple[Edit, ...]
    hints: tuple[str, ...] = ()


class InstructionParser(Protocol):
    """Turns what is said into edits of the scene; None is the scene before the first picture."""

    def parse(self, text: str, scene: Scene | None) -> ParsedInstruction:
        """Raises: NotPossibleError for a text that asks for nothing that is understood."""


HAN_PATTERN = re.compile(f"[{HAN_RANGES}]")


def detect_language(text: str) -> str:
    """ "zh" where any Chinese character is, else "en"."""
    return "zh" if HAN_PATTERN.search(text) else "en"
