"""What every rewriter of a conversation does: a text and the scene so far become edits."""

from dataclasses import dataclass
from typing import Protocol

from dianjing.pipelines.conversation.edits import Edit
from dianjing.pipelines.conversation.scenes import Scene


@dataclass(frozen=True, kw_only=True)
class Understood:
    """The edits that were asked for, in order, and hints for whoever asked: one plain sentence each."""

    edits: tuple[Edit, ...]
    hints: tuple[str, ...] = ()


class Rewriter(Protocol):
    """Turns what is said into edits of the scene; None is the scene before the first picture."""

    def rewrite(self, text: str, scene: Scene | None) -> Understood:
        """Raises: NotPossibleError for a text that asks for nothing that is understood."""
