"""Characters of a prompt: Unicode, quotes, brackets, repeated punctuation, spaces and traditional Chinese."""

import re
import unicodedata
from functools import cache
from typing import Any

from dianjing.pipelines.prompting.vocabulary import HAN_RANGES

HAN = f"[{HAN_RANGES}]"
HIDDEN = ("Cf", "Co")  # Unicode categories: format and private characters
EMPHASIS = re.compile(r":\s*\d+(?:\.\d+)?(?=\s*[)\]}])")  # the weight of (a cat:1.3)
APOSTROPHES = re.compile("[’‘ʼ`´]")
QUOTES = re.compile(r"[\"“”„‟«»‹›「」『』《》]|(?<![^\W\d_])'|'(?![^\W\d_])")
SEPARATORS = re.compile(r"[!?…;:|/\\\n\r\t~～。！？；：]|\.(?!\d)|--+|[()\[\]{}<>【】〔〕〈〉]")
SYMBOLS = re.compile(r"[#*_^=+@&%$]")
COMMAS = re.compile(r"\s*[,，、](?:\s*[,，、])*\s*")
SPACED_CHARACTERS = re.compile(rf"(?<!{HAN})({HAN}(?: +{HAN})+)(?!{HAN})")
COUNT_AFTER_NOUN = re.compile(rf"((?:[^\W\d_]|-)+)\s*[x×]\s*(\d+)(?!\w)|({HAN})[x×](\d+)(?!\w)")
COUNT_MARK = re.compile(r"(?<!\w)(\d+)\s*[x×](?![^\W\d_])")
RESOLUTION = re.compile(r"\b(?:\d+\s*[kp]|u?hdr?)\b")  # 8k, 1080p, HDR


@cache
def _make_converter(config: str) -> Any:
    from opencc import OpenCC

    return OpenCC(config)


def simplify(text: str) -> str:
    """Convert traditional Chinese to simplified, with the words of mainland China for those of Taiwan."""
    if re.search(HAN, text) is None or _make_converter("t2s").convert(text) == text:
        return text
    return str(_make_converter("tw2sp").convert(text))


def clean_text(prompt: str) -> str:
    """Normalize the characters of a prompt: lower case, one kind of comma, no quotes, brackets or repetition."""
    text = unicodedata.normalize("NFKC", prompt)
    text = "".join(
        char for char in text if unicodedata.category(char) not in HIDDEN and not "\ufe00" <= char <= "\ufe0f"
    )
    text = APOSTROPHES.sub("'", text).lower()
    text = QUOTES.sub("", EMPHASIS.sub("", text))
    text = RESOLUTION.sub("", SYMBOLS.sub(" ", text))
    text = SEPARATORS.sub(",", text)
    text = COMMAS.sub(", ", text)
    text = COUNT_MARK.sub(r"\1 ", text)
    text = COUNT_AFTER_NOUN.sub(lambda match: f"{match[2] or match[4]} {match[1] or match[3]}", text)
    text = re.sub(r"(?<=\d)(?=[^\W\d_])|(?<=[^\W\d_])(?=\d)", " ", text)
    text = SPACED_CHARACTERS.sub(lambda match: match[0].replace(" ", ""), text)
    text = re.sub(rf"(?<=\d) +(?={HAN})|(?<={HAN}) +(?=\d)", "", text)
    text = re.sub(rf"(?<={HAN})(?:, | +)(?={HAN})", "，", text)
    return " ".join(text.split()).strip(" ,，")
