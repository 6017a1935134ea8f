"""Choices by name with options, such as "pag:layers=3+4,guidance_scale=5", as a guider or a scheduler is named."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from dianjing.errors import DianjingError
from dianjing.pipelines.validation import format_value

OptionValue: TypeAlias = bool | int | float | str | tuple[int, ...]
CHOICE_PATTERN = re.compile(r"\s*([A-Za-z][\w*]*)\s*(?::(.*))?", flags=re.DOTALL)
INTEGER, NUMBER = r"[-+]?\d{1,12}", r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
MAX_CHOICE_CHARS = 500


@dataclass(frozen=True, kw_only=True)
class NamedChoice:
    """A name and its options; str() is the text that it is parsed from."""

    name: str
    options: Mapping[str, OptionValue] = field(default_factory=dict)

    def __str__(self) -> str:
        options = ",".join(f"{name}={_format_option(value)}" for name, value in self.options.items())
        return f"{self.name}:{options}" if options else self.name


def parse_choice(text: object, what: str) -> NamedChoice:
    """Parse "NAME" or "NAME:option=value,option=value"; an option alone is true, and 3+4 are several whole numbers.

    what: name of the argument, for the message. Raises: DianjingError for a text of another form.
    """
    match = CHOICE_PATTERN.fullmatch(text) if isinstance(text, str) and len(text) <= MAX_CHOICE_CHARS else None
    if match is None:
        raise DianjingError("choice_malformed", name=what, value=format_value(text))
    options: dict[str, OptionValue] = {}
    for part in match[2].split(",") if match[2] is not None else []:
        name, separator, value = (each.strip() for each in part.partition("="))
        if not name.isidentifier() or name in options or (separator and not value):
            raise DianjingError("choice_malformed", name=what, value=format_value(text))
        options[name] = _parse_option(value) if separator else True
    return NamedChoice(name=match[1], options=options)


def check_option_names(choice: NamedChoice, what: str, allowed: Iterable[str]) -> None:
    """Check the options of a choice against those that its name takes. Raises: DianjingError for another one."""
    allowed = sorted(allowed)
    for name in choice.options:
        if name not in allowed:
            raise DianjingError("choice_option_unknown", name=what, choice=choice.name, option=name, allowed=allowed)


def check_option_value(choice: NamedChoice, name: str, default: object) -> OptionValue:
    """Check one option by the type of its default, and return it: a number for a float, true or false for a bool.

    Raises: DianjingError for a value of another type.
    """
    value = choice.options[name]
    if isinstance(default, bool):
        is_valid = isinstance(value, bool)
    elif isinstance(default, int | float):
        is_valid = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        is_valid = not isinstance(default, str) or isinstance(value, str)
    if not is_valid:
        example = _format_option(default) if isinstance(default, bool | int | float | str) else "1"
        raise DianjingError(
            "choice_option_type", choice=choice.name, option=name, value=_format_option(value), example=example
        )
    return float(value) if isinstance(default, float) and isinstance(value, int) else value


def _parse_option(text: str) -> OptionValue:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if re.fullmatch(INTEGER, text):
        return int(text)
    if re.fullmatch(NUMBER, text):
        return float(text)
    if re.fullmatch(r"\d{1,6}(\+\d{1,6})+", text):
        return tuple(int(part) for part in text.split("+"))
    return text


def _format_option(value: OptionValue) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
