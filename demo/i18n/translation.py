"""Error messages in the reader's language, with parameters named as the reader's interface names them."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from dianjing.demo.errors import redact_paths
from dianjing.demo.i18n.catalog import TEXTS
from dianjing.errors import DianjingError, Language, Message

PAGE_LABELS = {  # parameter -> key of its label on the page
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "width": "width",
    "height": "height",
    "num_inference_steps": "steps",
    "num_images": "image_count",
    "num_images_per_prompt": "image_count",
    "guidance_scale": "guidance",
    "motion": "animate_motion",
    "strength": "animate_strength",
    "seed": "seed",
    "num_frames": "animate_frames",
    "duration_s": "video_seconds",
    "fps": "video_fps",
}
HTTP_FIELDS = {"num_images": "n", "num_images_per_prompt": "n", "duration_s": "seconds"}  # parameter -> field
CHINESE_MESSAGES_PATH = Path(__file__).with_name("chinese.txt")


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


def render_for_page(error: Exception, language: Language) -> str:
    """An error's message with the labels of the page, such as “Steps” for num_inference_steps."""
    labels = {name: getattr(TEXTS[key], language) for name, key in PAGE_LABELS.items()}
    return render_error(error, language, names={name: f"“{label}”" for name, label in labels.items()})


def render_for_http(error: Exception, language: Language) -> str:
    """An error's message with the field names of the HTTP API, such as n for num_images."""
    return render_error(error, language, names=HTTP_FIELDS)


def render_error(error: Exception, language: Language, *, names: Mapping[str, str]) -> str:
    """An error's message in a language, without paths of the server; `names` replaces names of parameters.

    A parameter is replaced if it is an argument of the message or stands at its start.
    """
    if isinstance(error, DianjingError):
        text = _rename_parameters(error.message, names).render(language)
    else:
        text = _translate(str(error), language)
    pattern = "|".join(map(re.escape, names))
    return redact_paths(re.sub(rf"^(?:{pattern})\b", lambda match: names[match[0]], text))


def _rename_parameters(value: Any, names: Mapping[str, str]) -> Any:
    """Replace names of parameters among the arguments of a message, also of the messages inside it."""
    if isinstance(value, DianjingError):
        value = value.message
    if isinstance(value, Message):
        arguments = {key: _rename_parameters(argument, names) for key, argument in value.arguments.items()}
        return Message(value.message_id, **arguments)
    if isinstance(value, list | tuple):
        return [_rename_parameters(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def _translate(message: str, language: Language) -> str:
    if language == "en":
        return message
    return _translate_to_chinese(message) or (
        message if re.search("[\u4e00-\u9fff]", message) else f"请求有误：{message}"
    )


def _translate_to_chinese(message: str) -> str | None:
    """None for a message without a Chinese counterpart; a reason inside a message is translated by itself."""
    for pattern, chinese in _load_patterns():
        if match := pattern.fullmatch(message):
            values = match.groupdict()
            if "reason" in values:
                values["reason"] = _translate_to_chinese(values["reason"]) or "内容不完整，或被改过"
            return chinese.format(**values)
    return None


@cache
def _load_patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Patterns of the English messages with their Chinese; names in braces become groups."""
    from dianjing.errors import get_messages

    lines = [
        line
        for line in CHINESE_MESSAGES_PATH.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    pairs = [
        *((each["en"], each["zh"]) for each in get_messages().values()),
        *zip(lines[::2], lines[1::2], strict=True),
    ]
    compiled = []
    for english, chinese in pairs:
        parts = re.split(r"\{(\w+)\}", english)
        pattern = "".join(
            re.escape(part) if index % 2 == 0 else f"(?P={part})" if part in parts[:index] else f"(?P<{part}>.+?)"
            for index, part in enumerate(parts)
        )
        compiled.append((re.compile(pattern, re.DOTALL), chinese))
    return tuple(compiled)
