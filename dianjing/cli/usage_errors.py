"""Errors of the command line's parser, as messages in the user's language.

Typer carries the parser inside itself since 0.22, so that the classes have no public place: they are found by name.
"""

import re
from typing import Any

from dianjing.errors import DianjingError, Message


def is_usage_error(error: BaseException) -> bool:
    """True for an error that the parser raises, the help that a bare command prints included."""
    return hasattr(error, "show") and hasattr(error, "exit_code")


def convert_usage_error(error: Any) -> DianjingError | None:
    """The user's error behind one of the parser; None for the help that a bare command prints."""
    kinds = {cls.__name__ for cls in type(error).__mro__}
    if "NoArgsIsHelpError" in kinds:
        return None
    command = error.ctx.command_path if error.ctx else "dianjing"
    return DianjingError("usage_wrong", problem=_describe(error, kinds), command=command)


def _describe(error: Any, kinds: set[str]) -> Message:
    if "NoSuchOption" in kinds:
        if error.possibilities:
            return Message("usage_option_similar", option=error.option_name, options=sorted(error.possibilities))
        return Message("usage_option_unknown", option=error.option_name)
    if "MissingParameter" in kinds:
        return Message("usage_argument_missing", name=_get_name(error.param))
    if "BadParameter" in kinds:
        return Message("usage_value_wrong", name=_get_name(error.param), reason=_get_reason(error))
    if "BadOptionUsage" in kinds:
        if "not take" in error.message:
            return Message("usage_value_not_taken", option=error.option_name)
        return Message("usage_value_missing", option=error.option_name)
    commands = getattr(getattr(error.ctx, "command", None), "commands", None)
    if commands:
        named = re.search("'(.*?)'", error.message)
        return Message("usage_command_unknown", name=named[1] if named else "?", commands=list(commands))
    return Message("usage_other", reason=_get_reason(error))


def _get_reason(error: Any) -> str:
    return error.message.removeprefix("Value error, ").rstrip(".")


def _get_name(param: Any) -> str:
    """The longest name of an option, or an argument as the help shows it."""
    return max(param.opts, key=len) if param.param_type_name == "option" else param.metavar or param.name.upper()
