"""Messages for the mistakes that pydantic finds in a run file."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from dianjing.errors import DianjingError, Message

MAX_VALUE_LENGTH = 60
TYPES = {  # by pydantic's type of mistake
    "int_type": Message("type_integer"),
    "int_parsing": Message("type_integer"),
    "int_from_float": Message("type_integer"),
    "float_type": Message("type_number"),
    "float_parsing": Message("type_number"),
    "string_type": Message("type_string"),
    "bool_type": Message("type_boolean"),
    "bool_parsing": Message("type_boolean"),
    "list_type": Message("type_list"),
    "tuple_type": Message("type_list"),
    "dict_type": Message("type_table"),
    "model_type": Message("type_table"),
    "too_short": Message("type_nonempty_list"),
}


def list_mistakes(model: type[BaseModel], error: ValidationError) -> list[Message]:
    """One message for each mistake: the key, its value, and what is allowed."""
    mistakes = error.errors()
    locations = [mistake["loc"] for mistake in mistakes]
    return [
        _describe_mistake(model, mistake)
        for mistake in mistakes
        # a list with a wrong item is no mistake of its own
        if not any(loc != mistake["loc"] and loc[: len(mistake["loc"])] == mistake["loc"] for loc in locations)
    ]


def _describe_mistake(model: type[BaseModel], mistake: Any) -> Message:
    *path, last = mistake["loc"] or ("config",)
    key = ".".join(map(str, mistake["loc"])) or "config"
    context = mistake.get("ctx", {})
    if mistake["type"] == "extra_forbidden":
        known = list(_get_fields(model, path))
        nearest = difflib.get_close_matches(str(last), known, n=1, cutoff=0.5)
        if nearest:
            return Message("config_key_misspelt", key=key, nearest=nearest[0])
        return Message("config_key_unknown", key=key, known=known)
    if mistake["type"] == "missing":
        return Message("config_key_missing", key=key)
    if isinstance(context.get("error"), DianjingError):  # raised by a validator of ours
        return Message("config_section_invalid", key=key, reason=context["error"])
    return Message(
        "config_value_invalid",
        key=key,
        value=_shorten(repr(mistake["input"])),
        expected=_describe_expected(mistake, context),
    )


def _shorten(value: str) -> str:
    """A value that stands before what is allowed, so that a whole section does not push that out of view."""
    return value if len(value) <= MAX_VALUE_LENGTH else f"{value[:MAX_VALUE_LENGTH]}..."


def _describe_expected(mistake: Any, context: Mapping[str, Any]) -> Message:
    """A message that says which values a key allows."""
    if mistake["type"] == "greater_than":
        return Message("expected_above", bound=context["gt"])
    if mistake["type"] == "greater_than_equal":
        return Message("expected_at_least", bound=context["ge"])
    if mistake["type"] == "less_than":
        return Message("expected_below", bound=context["lt"])
    if mistake["type"] == "less_than_equal":
        return Message("expected_at_most", bound=context["le"])
    if mistake["type"] == "literal_error":
        return Message("expected_choice", allowed=context["expected"])
    if mistake["type"] in TYPES:
        return Message("expected_type", type=TYPES[mistake["type"]])
    return Message("expected_other", reason=mistake["msg"])


def _get_fields(model: type[BaseModel], path: Sequence[str | int]) -> Mapping[str, Any]:
    """The fields of the section at a path, such as ("data", "stages", 0)."""
    for part in path:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            candidates = [annotation, *getattr(annotation, "__args__", ())]
            model = next(each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel))
    return model.model_fields
