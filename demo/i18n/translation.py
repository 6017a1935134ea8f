"""Error messages in the reader's language, with parameters named as the reader's interface names them."""

import re
from collections.abc import Mapping
from typing import Any

from dianjing.demo.errors import redact_paths
from dianjing.demo.i18n.catalog import TEXTS
from dianjing.errors import DianjingError, Language, Message

PAGE_LABELS = {  # parameter -> key of its label on the page
    "prompt": "prompt",
    "text": "chat_text",
    "negative_prompt": "negative_prompt",
    "width": "width",
    "height": "height",
    "num_inference_steps": "steps",
    "num_images": "image_count",
    "num_images_per_prompt": "image_count",
    "guidance_scale": "guidance",
    "guidance_mode": "guidance_mode",
    "scheduler": "scheduler",
    "motion": "animate_motion",
    "strength": "animate_strength",
    "seed": "seed",
    "num_frames": "animate_frames",
    "duration_s": "video_seconds",
    "fps": "video_fps",
    "long_video": "long_video",
    "continuation_steps": "steps",
    "continuation_guidance_scale": "guidance",
}
HTTP_FIELDS: Mapping[str, str | Message] = {  # parameter -> field
    "num_images": "n",
    "num_images_per_prompt": "n",
    "duration_s": "seconds",
}


def parse_accept_language(header: str) -> Language:
    """The language that an Accept-Language header such as "zh-CN,zh;q=0.9,en;q=0.8" prefers; English for neither."""
    best_weight, language = 0.0, "en"
    for part in header.split(","):
        name, _, parameters = part.partition(";")
        match = re.fullmatch(r"\s*q=([01](?:\.[0-9]{1,3})?)\s*", parameters)
        weight = float(match[1]) if match else 1.0
        primary = name.strip().lower().partition("-")[0]
        if primary in ("zh", "en") and weight > best_weight:
            best_weight, language = weight, primary
    return "zh" if language == "zh" else "en"


def render_for_page(error: DianjingError, language: Language) -> str:
    """An error's message with the labels of the page, such as “Steps” for num_inference_steps."""
    labels = {name: getattr(TEXTS[key], language) for name, key in PAGE_LABELS.items()}
    return render_message(error, language, names={name: f"“{label}”" for name, label in labels.items()})


def render_for_http(error: DianjingError, language: Language) -> str:
    """An error's message with the field names of programs, such as n for num_images."""
    return render_message(error, language, names=HTTP_FIELDS)


def render_message(error: DianjingError, language: Language, *, names: Mapping[str, str | Message]) -> str:
    """An error's message in a language, without paths of the server; `names` replaces names of parameters.

    A parameter is replaced if it is an argument of the message or stands at its start; one that is no word of a
    language, such as num_frames, also anywhere else.
    """
    text = _rename_parameters(error.message, names).render(language)
    localized = {name: to if isinstance(to, str) else to.render(language) for name, to in names.items()}
    words = "|".join(re.escape(name) for name in names)
    identifiers = "|".join(re.escape(name) for name in names if "_" in name) or "(?!)"
    pattern = rf"^(?:{words})(?![a-z0-9_])|(?<![a-z0-9_])(?:{identifiers})(?![a-z0-9_])"
    return redact_paths(re.sub(pattern, lambda match: localized[match[0]], text) if names else text)


def _rename_parameters(value: Any, names: Mapping[str, str | Message]) -> Any:
    """Replace names of parameters among the arguments of a message, also of the messages inside it."""
    if isinstance(value, DianjingError):
        value = value.message
    if type(value) is Message:  # subclasses render themselves
        arguments = {key: _rename_parameters(argument, names) for key, argument in value.arguments.items()}
        return Message(value.message_id, **arguments)
    if isinstance(value, list | tuple):
        return [_rename_parameters(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value
