"""Text of files that other programs have written: encodings are recognized by name, byte order marks removed."""

import re
from typing import Any

from dianjing.errors import DianjingError

HAN_CHARACTER = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
BYTE_ORDER_MARKS = (  # UTF-32 before UTF-16, whose mark is the beginning of its own
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)
MIN_UTF16_ZEROS = 0.2  # fraction of zero bytes by which UTF-16 without a mark is recognized
CJK = r"\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef"
ENDS_WITHOUT_SPACE = re.compile(r"[\s\u3000-\u303f\uff00-\uff0f\uff1a-\uff1f]$")  # spaces and Chinese punctuation
BEGINS_WITHOUT_SPACE = re.compile(r"^[\s,.;:!?\u3000-\u303f\uff00-\uff0f\uff1a-\uff1f]")


def decode_text(content: bytes) -> str:
    """Decode UTF-8 without its byte order mark and without zero bytes.

    Raises: DianjingError that names the encoding of a file in another one.
    """
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if content.startswith(mark)), None)
    if encoding is None and content.rstrip(b"\0").count(0) > MIN_UTF16_ZEROS * len(content):
        encoding = "UTF-16"
    if encoding is not None:
        raise DianjingError("text_encoding_wrong", encoding=encoding)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        if _is_gbk(content):
            raise DianjingError("text_encoding_wrong", encoding="GBK") from None
        raise DianjingError("text_not_utf8", reason=error.reason, position=error.start) from None
    return text.replace("\ufeff", "").replace("\0", "")


def _is_gbk(content: bytes) -> bool:
    try:
        return HAN_CHARACTER.search(content.decode("gb18030")) is not None
    except UnicodeDecodeError:
        return False


def normalize_caption(value: Any, *, field: str) -> str | None:
    """A caption on one line, None if it is empty.

    Raises: DianjingError that names `field` and the type of a value that is no text.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise DianjingError("caption_type_wrong", field=field, value=str(value)[:40], type=type(value).__name__)
    return " ".join(value.replace("\ufeff", "").replace("\0", "").split()) or None


def join_captions(first: str, second: str) -> str:
    """Join two parts of a caption with a space, or without one next to punctuation and between Chinese characters."""
    if not first or not second:
        return first or second
    is_chinese = re.search(f"[{CJK}]$", first) and re.match(f"[{CJK}]", second)
    if is_chinese or ENDS_WITHOUT_SPACE.search(first) or BEGINS_WITHOUT_SPACE.search(second):
        return first + second
    return f"{first} {second}"
