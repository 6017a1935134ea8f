"""Settings in messages are called what they are called on the page."""

import re
from functools import cache
from pathlib import Path

from dianjing.demo.i18n.catalog import TEXTS
from dianjing.pipelines.conversation.messages import EDIT_ERROR_MESSAGES

FIELD_LABELS = {
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


def translate_with_labels(message: str, language: str) -> str:
    """An error of the floors below for whoever reads the page: in their language, the setting by its label."""
    translated = translate(message, language)
    found = LEADING_FIELD_PATTERN.match(message)
    if found is None or not translated.startswith(found[0]):
        return translated
    text = TEXTS[FIELD_LABELS[found[0]]]
    label = f"“{text.zh}”" if language == "zh" else f"“{text.en}”"
    return label + translated.removeprefix(found[0])


CHINESE_MESSAGES_PATH = Path(__file__).with_name("chinese.txt")
HAN_PATTERN = re.compile("[\u4e00-\u9fff]")


def parse_accept_language(header: str) -> str:
    """ "zh" or "en" of a header Accept-Language such as "zh-CN,zh;q=0.9,en;q=0.8"; English where it names neither."""
    best, language = 0.0, "en"
    for part in header.split(","):
        name, _, weight = part.partition(";")
        found = re.fullmatch(r"\s*q=([01](?:\.[0-9]{1,3})?)\s*", weight)
        share = float(found[1]) if found else 1.0
        short = name.strip().lower().partition("-")[0]
        if short in ("zh", "en") and share > best:
            best, language = share, short
    return language


def translate(message: str, language: str) -> str:
    """A message of Dianjing's in "zh" or "en"; one that is already Chinese stays as it is."""
    if language == "en":
        return message
    return _translate_to_chinese(message) or (message if HAN_PATTERN.search(message) else f"请求有误：{message}")


def _translate_to_chinese(message: str) -> str | None:
    """None for a message that no sentence fits; a reason inside a sentence is a sentence of its own, or a plain one."""
    for pattern, chinese in _load_patterns():
        if found := pattern.fullmatch(message):
            values = found.groupdict()
            if "reason" in values:
                values["reason"] = _translate_to_chinese(values["reason"]) or "内容不完整，或被改过"
            return chinese.format(**values)
    return None


@cache
def _load_patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    """What stands in braces in an English sentence is found by that name in a message."""
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
