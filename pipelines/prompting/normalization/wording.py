"""Replacement of words in a prompt: negations, numerals, adapters' words and unknown ones."""

import re
from collections.abc import Sequence

from dianjing.pipelines.conversation.scene import MAX_INSTANCES
from dianjing.pipelines.prompting.normalization import word_lists
from dianjing.pipelines.prompting.vocabulary import HAN_RANGES, Vocabulary

NEGATION_WORDS = frozenset({word_lists.NEGATED_EN, word_lists.NEGATED_ZH, *word_lists.NEGATION_ZH})


def replace_negations(text: str) -> str:
    for pattern in word_lists.NEGATION_EN:
        text = re.sub(pattern, word_lists.NEGATED_EN, text)
    for word in word_lists.NEGATION_ZH:
        text = text.replace(word, word_lists.NEGATED_ZH)
    return text


def replace_numerals(text: str, names: Sequence[str]) -> tuple[str, list[str]]:
    """Write numbers as digits up to the largest that can be drawn, but in names; return the larger ones, too."""
    too_many: list[str] = []

    def replace_number(match: re.Match[str]) -> str:
        word = match[0]
        if word in names:
            return word
        value = word_lists.NUMERALS_EN.get(word, word_lists.NUMERALS_ZH.get(word))
        value = int(word) if value is None else value
        if value > MAX_INSTANCES:
            too_many.append(word)
        return str(min(max(value, 1), MAX_INSTANCES))

    words = sorted([*names, *word_lists.NUMERALS_EN], key=len, reverse=True)
    text = re.sub(rf"\b(?:{'|'.join(map(re.escape, words))})\b", replace_number, text)
    text = re.sub(rf"(?:{'|'.join(word_lists.NUMERALS_ZH)})(?=[{HAN_RANGES}])", replace_number, text)
    return re.sub(r"\d+", replace_number, text), too_many


def contains_any(text: str, words: Sequence[str]) -> bool:
    return any(
        re.search(rf"(?<!\w){re.escape(word)}(?!\w)" if word.isascii() else re.escape(word), text, re.I)
        for word in words
    )


def restore_case(text: str, words: Sequence[str]) -> str:
    for word in words:
        text = word.join(re.split(re.escape(word), text, flags=re.I))
    return text


def replace_words(text: str, words: Sequence[str], replacement: str) -> str:
    for word in words:
        pattern = rf"\b{re.escape(word)}\b" if word.isascii() else re.escape(word)
        text = re.sub(pattern, replacement, text, flags=re.I)
    return text


def remove_unknown(text: str, vocabulary: Vocabulary) -> tuple[str, list[str]]:
    """Remove negated phrases and unknown words from a text that an adapter's words are in."""
    text = re.sub(rf"\b{word_lists.NEGATED_EN}\b[^,.]*|{word_lists.NEGATED_ZH}[^，,。的]*的?", "", text)
    unknown = vocabulary.find_unknown_words(text)
    text = replace_words(text, unknown, "")
    text = re.sub(r"\s*([,，])(?:\s*[,，])*\s*", r"\1 ", " ".join(text.split()))
    ignored = word_lists.FILLER_EN | NEGATION_WORDS
    return text.replace("， ", "，").strip(" ,，"), [word for word in unknown if word not in ignored]
