"""Errors of conversations; their messages stand in `dianjing/messages/conversation.toml`."""

from dianjing.errors import DianjingError, Language, Message


class EditError(DianjingError):
    """An instruction that is not understood, or an edit that cannot be done; for the author of the instruction."""


class LocalizedName(Message):
    """A name in both languages, as an argument of a message."""

    def __init__(self, *, en: str, zh: str):
        super().__init__("", en=en, zh=zh)

    def render(self, language: Language = "en") -> str:
        """Return the name in a language."""
        return self.arguments[language]
