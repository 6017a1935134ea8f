"""Error messages in the reader's language, with parameters named as the page names them."""

import re
from functools import cache
from pathlib import Path

from dianjing.demo.i18n.catalog import TEXTS
from dianjing.pipelines.conversation.messages import EDIT_ERROR_MESSAGES

FIELD_LABELS = {  # parameter -> key of its label on the page
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
LEADING_FIELD_PATTERN = re.compile(rf"(?:{'|'.join(FIELD_LABELS)})\b")
CHINESE_MESSAGES_PATH = Path(__file__).with_name("chinese.txt")
HAN_PATTERN = re.compile("[\u4e00-\u9fff]")


def parse_accept_language(header: str) -> str:
    """The language, "zh" or "en", that an Accept-Language header such as "zh-CN,zh;q=0.9,en;q=0.8" prefers.

    English if it names neither.
    """
    best_weight, language = 0.0, "en"
    for part in header.split(","):
        name, _, parameters = part.partition(";")
        match = re.fullmatch(r"\s*q=([01](?:\.[0-9]{1,3})?)\s*", parameters)
        weight = float(match[1]) if match else 1.0
        primary = name.strip().lower().partition("-")[0]
        if primary in ("zh", "en") and weight > best_weight:
            best_weight, language = weight, primary
    return language


def translate_with_labels(message: str, language: str) -> str:
    """Translate an error message for the page; a parameter at its start is replaced by its label."""
    translated = translate(message, language)
    match = LEADING_FIELD_PATTERN.match(message)
    if match is None or not translated.startswith(match[0]):
        return translated
    text = TEXTS[FIELD_LABELS[match[0]]]
    label = f"“{text.zh}”" if language == "zh" else f"“{text.en}”"
    return label + translated.removeprefix(match[0])


def translate(message: str, language: str) -> str:
    """Translate an English error message to `language`; a Chinese one is returned as it is."""
    if language == "en":
        return message
    return _translate_to_chinese(message) or (message if HAN_PATTERN.search(message) else f"请求有误：{message}")


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
    lines = [
        line
        for line in CHINESE_MESSAGES_PATH.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    pairs = [*((each.en, each.zh) for each in EDIT_ERROR_MESSAGES), *zip(lines[::2], lines[1::2], strict=True)]
    compiled = []
    for english, chinese in pairs:
        parts = re.split(r"\{(\w+)\}", english)
        pattern = "".join(f"(?P<{part}>.+?)" if index % 2 else re.escape(part) for index, part in enumerate(parts))
        compiled.append((re.compile(pattern, re.DOTALL), chinese))
    return tuple(compiled)
