"""Every picture of a data set is opened once before it is trained on: what cannot be read is named, not met later."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from dianjing.pipelines.film_reading import ANIMATIONS, VIDEOS, decode_film
from dianjing.pipelines.fitting import fit, open_picture
from dianjing.train.sets.entries import Entry, Source

THREADS = 8  # decoding leaves Python's lock
SLOWEST = 0.95  # of the frames a second that are asked for


@dataclass(frozen=True, kw_only=True)
class Looked:
    """Entries with their (width, height) and number of frames, and by name what was left out and why."""

    entries: list[Entry]
    sizes: list[tuple[int, int]]
    lengths: list[int]  # 1 of pictures
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


def read_frames(entry: Entry, *, fps: float) -> np.ndarray:
    """The frames of a film at so many a second: uint8 (F, H, W, 3); where it has another first frame, with that.

    Raises: ValueError for what cannot be read, or is slower.
    """
    film = decode_film(read(entry.source, name=entry.name), name=entry.name)
    if film.fps < SLOWEST * fps:
        raise ValueError(f"{entry.name} has {film.fps:.3g} frames a second; data.fps asks for {fps:g}")
    count = max(1, round(len(film.frames) * fps / film.fps))
    indices = np.minimum(np.round(np.arange(count) * film.fps / fps).astype(int), len(film.frames) - 1)
    frames = film.frames[indices]
    if entry.first_frame is not None:
        height, width = frames.shape[1:3]
        frames[0] = fit(decode(entry.first_frame, name=f"first frame of {entry.name}"), height=height, width=width)[0]
    return frames


def is_film(entry: Entry, content: bytes) -> bool:
    """Also an animated picture."""
    if entry.name.lower().endswith(VIDEOS):
        return True
    if not entry.name.lower().endswith(ANIMATIONS):
        return False
    with Image.open(BytesIO(content), formats=("WEBP", "GIF")) as image:
        return getattr(image, "n_frames", 1) > 1


def look(entries: Sequence[Entry], *, min_px: int, fps: float | None = None) -> Looked:
    """Open them all; pictures with a side below `min_px` are left out.

    fps: that films are read at; None where pictures alone are wanted, of an animated one the first frame.
    """

    def examine(entry: Entry) -> tuple[tuple[int, int], int, str] | str:
        try:
            content = read(entry.source, name=entry.name)
            digest = hashlib.blake2b(content, digest_size=20)
            if fps is None or not is_film(entry, content):
                if entry.name.lower().endswith(VIDEOS):
                    return "a film; data.num_frames names no length for films"
                return open_picture(BytesIO(content), name=entry.name).size, 1, digest.hexdigest()
            count, height, width, _ = read_frames(entry, fps=fps).shape
            if count < 2:
                return f"a film of one frame at {fps:g} a second"
            for beside in (entry.first_frame, None if entry.click is None else entry.click.mask):
                if beside is not None:
                    digest.update(read(beside, name=f"what is beside {entry.name}"))
        except (ValueError, OSError) as error:
            return str(error)
        return (width, height), count, digest.hexdigest()

    found = Looked(entries=[], sizes=[], lengths=[], dropped={})
    with ThreadPoolExecutor(THREADS) as pool:
        bar = tqdm(pool.map(examine, entries), total=len(entries), desc="looking at pictures", disable=None)
        for entry, answer in zip(entries, bar, strict=True):
            if isinstance(answer, str):
                found.dropped[entry.name] = answer
                continue
            (width, height), count, digest = answer
            if min(width, height) < min_px:
                found.dropped[entry.name] = f"{width} x {height} px is below {min_px} px"
            else:
                found.entries.append(replace(entry, digest=digest))
                found.sizes.append((width, height))
                found.lengths.append(count)
    return found
