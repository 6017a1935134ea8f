"""Every picture of a data set is opened once before it is trained on: what cannot be read is named, not met later."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO

from PIL import Image
from tqdm.auto import tqdm

from dianjing.pipelines.fitting import open_picture
from dianjing.train.sets.entries import Entry, Source

THREADS = 8  # decoding leaves Python's lock


@dataclass(frozen=True, kw_only=True)
class Looked:
    """Entries with their (width, height), and by name what was left out and why."""

    entries: list[Entry]
    sizes: list[tuple[int, int]]
    dropped: dict[str, str]


def read(source: Source, *, name: str) -> bytes:
    """Raises ValueError for what cannot be read."""
    try:
        return source.read()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None


def decode(source: Source, *, name: str) -> Image.Image:
    """The picture as RGB, upright.

    Raises: ValueError for what cannot be read as one.
    """
    return open_picture(BytesIO(read(source, name=name)), name=name)


def look(entries: Sequence[Entry], *, min_px: int) -> Looked:
    """Open them all; pictures with a side below `min_px` are left out."""

    def examine(entry: Entry) -> tuple[tuple[int, int], str] | str:
        try:
            content = read(entry.source, name=entry.name)
            size = open_picture(BytesIO(content), name=entry.name).size
        except ValueError as error:
            return str(error)
        return size, hashlib.blake2b(content, digest_size=20).hexdigest()

    found = Looked(entries=[], sizes=[], dropped={})
    with ThreadPoolExecutor(THREADS) as pool:
        bar = tqdm(pool.map(examine, entries), total=len(entries), desc="looking at pictures", disable=None)
        for entry, answer in zip(entries, bar, strict=True):
            if isinstance(answer, str):
                found.dropped[entry.name] = answer
                continue
            (width, height), digest = answer
            if min(width, height) < min_px:
                found.dropped[entry.name] = f"{width} x {height} px is below {min_px} px"
            else:
                found.entries.append(replace(entry, digest=digest))
                found.sizes.append((width, height))
    return found
