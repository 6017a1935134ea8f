"""The rule by which a call is drawn by the model's adapter for few steps, or by the model alone in its own steps.

It needs no torch, and holds for pipelines, requests and commands alike.
"""

from collections.abc import Mapping

from dianjing.errors import DianjingError
from dianjing.pipelines.validation import format_value


def should_use_few_steps(
    slow: bool | None, settings: Mapping[str, object], *, has_adapters: bool = False, is_default: bool = True
) -> bool:
    """Return True if the model's adapter for few steps draws a call.

    slow: True for the model alone, False for few steps, None for the default, by which few steps are left to calls of
    the model as it is: an adapter of the user draws better in the model's own steps. settings: those of the call that
    the adapter was not trained for, by name; None and empty ones are left out. has_adapters: adapters of the user are
    active. is_default: False for calls that take few steps only where they are asked for.
    Raises: DianjingError for a call that asks for few steps and has settings that rule them out.
    """
    check_slow(slow)
    names = [name for name, value in settings.items() if value is not None and not _is_empty(value)]
    if slow is False and names:
        raise DianjingError("few_steps_with_settings", names=names)
    if slow is not None:
        return not slow
    return is_default and not names and not has_adapters


def check_slow(slow: object) -> None:
    """Raise DianjingError for a value of `slow` other than True, False and None."""
    if slow is not None and not isinstance(slow, bool):
        raise DianjingError("slow_type", value=format_value(slow))


def _is_empty(value: object) -> bool:
    """True for an empty text or an empty list."""
    return isinstance(value, str | list | tuple) and not value
