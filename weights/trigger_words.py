"""Trigger words: the words that an adapter gave a meaning to, in the metadata of its file.

They are written as `modelspec.trigger_phrase` (Stability AI's ModelSpec), with commas between them; the tags of
adapters by kohya's sd-scripts (`ss_tag_frequency`) are read as well.
"""

import json
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dianjing.weights.adapter_files import PREFERRED_NAMES, find_adapter_file

TRIGGER_KEY, TAGS_KEY = "modelspec.trigger_phrase", "ss_tag_frequency"
MAX_WORDS = 100


def write_trigger_words(path: Path, words: Sequence[str]) -> None:
    """Add trigger words to the metadata of a safetensors file; without any, it stays as it is."""
    if words:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        save_file(load_file(path), path, metadata={**metadata, TRIGGER_KEY: ", ".join(words[:MAX_WORDS])})


def read_trigger_words(source: str | PathLike) -> tuple[str, ...]:
    """Read the trigger words of an adapter: a folder, a .safetensors file, or a Hub id that is in the cache.

    Returns words or short phrases; none for a file without them, and for one that cannot be read.
    """
    path = _find_file(source)
    if path is None:
        return ()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        words = [*metadata.get(TRIGGER_KEY, "").split(","), *_iterate_tags(metadata.get(TAGS_KEY, "{}"))]
    except Exception:  # safetensors raises classes of its own; loading the adapter says what is wrong with the file
        return ()
    return tuple(dict.fromkeys(word.strip() for word in words if word.strip()))[:MAX_WORDS]


def _find_file(source: str | PathLike) -> Path | None:
    path = find_adapter_file(source)
    if path is not None:
        return path
    if str(source).count("/") == 1:
        found = (try_to_load_from_cache(str(source), name) for name in PREFERRED_NAMES)
        return next((Path(each) for each in found if isinstance(each, str)), None)
    return None


def _iterate_tags(text: str) -> Iterator[str]:
    """Tags of {"data set": {"tag": count}}."""
    for tags in json.loads(text).values():
        yield from tags
