"""What a server refuses, and how it says so in the caller's language without a word about its own files."""

import re
from functools import cache
from pathlib import Path

from dianjing.pipelines.conversation.refusals import REFUSALS


class RefusedError(ValueError):
    """A request that is not taken now; `status` is the HTTP status that says the same."""

    status = 400


class NoKeyError(RefusedError):
    status = 401


class NoSuchJobError(RefusedError):
    """The same for a job that never was, is gone, or is somebody else's."""

    status = 404


class QueueFullError(RefusedError):
    status = 429


class StoppingError(RefusedError):
    status = 503


OUT_OF_MEMORY = "the server ran out of memory on this request; ask for a smaller size, fewer pictures or fewer frames"
BROKEN = "the server failed on this request, and noted why; other requests go on: try again, or change the settings"
SENTENCES = Path(__file__).with_name("chinese.txt")
HAN = re.compile("[\u4e00-\u9fff]")
PATH = re.compile(r"(?<![\w:/.])(?:[A-Za-z]:\\|/)(?:[\w.@+-]+[/\\])+[\w.@+-]*")


def without_paths(message: str) -> str:
    """A message that names no folder of the server."""
    return PATH.sub("...", message)


def wanted_language(accept: str) -> str:
    """ "zh" or "en" of a header Accept-Language such as "zh-CN,zh;q=0.9,en;q=0.8"; English where it names neither."""
    best, language = 0.0, "en"
    for part in accept.split(","):
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
    return _in_chinese(message) or (message if HAN.search(message) else f"请求有误：{message}")


def _in_chinese(message: str) -> str | None:
    """None for a message that no sentence fits; a reason inside a sentence is a sentence of its own, or a plain one."""
    for pattern, chinese in _patterns():
        if found := pattern.fullmatch(message):
            values = found.groupdict()
            if "reason" in values:
                values["reason"] = _in_chinese(values["reason"]) or "内容不完整，或被改过"
            return chinese.format(**values)
    return None


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    """What stands in braces in an English sentence is found by that name in a message."""
    lines = [line for line in SENTENCES.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    pairs = [*((each.en, each.zh) for each in REFUSALS), *zip(lines[::2], lines[1::2], strict=True)]
    compiled = []
    for english, chinese in pairs:
        parts = re.split(r"\{(\w+)\}", english)
        pattern = "".join(f"(?P<{part}>.+?)" if index % 2 else re.escape(part) for index, part in enumerate(parts))
        compiled.append((re.compile(pattern, re.DOTALL), chinese))
    return tuple(compiled)
