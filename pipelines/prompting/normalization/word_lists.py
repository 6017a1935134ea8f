"""Words around the content of a prompt: filler, negations, numerals, and compounds that hide a short name."""

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_WORDS = {
    name: tuple(sorted(text.split(), key=len, reverse=True))
    for name, text in tomllib.loads(Path(__file__).with_name("words.toml").read_text(encoding="utf-8")).items()
}
FILLER_EN, FILLER_ZH = frozenset(_WORDS["filler_en"]), _WORDS["filler_zh"]
VERBS_ZH, COMPOUNDS_ZH, NEGATION_ZH = _WORDS["verbs_zh"], _WORDS["compounds_zh"], _WORDS["negations_zh"]
SYNONYMS_ZH = dict(pair.split("=") for pair in _WORDS["synonyms_zh"])
NEGATION_EN = (
    r"\b(?:do not|don'?t|doesn'?t|never|must not|mustn'?t|should not|shouldn'?t)\b"
    r"(?: want| need| draw| show| add| include| paint| put| use| have)?",
    r"\bwith no\b",
    r"\bfree of\b",
    r"\b(?:instead of|rather than|other than|excluding|except(?: for)?|minus|without|not|no)\b",
)
NEGATED_EN, NEGATED_ZH = "without", "没有"
NEGATION_END = frozenset({"but", "just", "only", "的", "但", "而", ",", "，", "in", "on", "at"})
NUMERALS_EN = {
    "several": 3,
    "a few": 3,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "a dozen": 12,
    "dozen": 12,
    "many": 4,
    "lots of": 4,
}
NUMERALS_ZH = {"好几": 3, "几": 3, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9, "十": 10, "许多": 4, "很多": 4}
