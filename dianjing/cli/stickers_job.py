"""Work of `dianjing stickers`: themes are checked without torch; then objects are cut out, animated and packed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dianjing.cli.loading import check_device, check_few_steps, load_pipeline
from dianjing.errors import DianjingError, Message
from dianjing.pipelines.conversation.parsing.base import detect_language
from dianjing.pipelines.media.aigc_label import make_aigc_label, serialize_label
from dianjing.pipelines.media.metadata import get_sampling_metadata
from dianjing.pipelines.media.sticker_album import (
    ALBUM_COUNTS,
    AlbumSticker,
    check_album,
    choose_album_count,
    write_album,
)
from dianjing.pipelines.prompting.concepts import CONCEPTS_FILE
from dianjing.pipelines.prompting.motions import MOTIONS_FILE
from dianjing.pipelines.prompting.normalization.normalizer import PromptNormalizer, describe_words
from dianjing.pipelines.validation import check_int, check_seed
from dianjing.weights.resolve import resolve_local_model

MAX_THEMES = 24


@dataclass(frozen=True, kw_only=True)
class StickerTheme:
    """One object of the album: its English and Chinese names and its color."""

    name: str
    meaning: str
    colour: str | None


@dataclass(frozen=True, kw_only=True)
class StickersJob:
    """One run of `dianjing stickers`: `count` stickers of the themes in turn, in a new folder.

    unknown_words: what the themes are drawn without, with the nearest known names. reduced_themes: those that say more
    than objects with colors, which are all that a sticker shows.
    """

    themes: tuple[StickerTheme, ...]
    folder: Path
    count: int
    seed: int
    slow: bool | None
    model: str
    device: str
    dtype: str
    producer: str | None
    unknown_words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    reduced_themes: tuple[str, ...] = ()


def validate_stickers_job(
    themes: list[str], *, folder: Path, count: int | None, model: str, slow: bool | None = None, **settings: Any
) -> StickersJob:
    """Check all options before weights load. count: None for the smallest album that has room for all objects.

    Raises: DianjingError.
    """
    check_int(len(themes), "the number of themes", low=1, high=MAX_THEMES)
    check_album(ALBUM_COUNTS[0] if count is None else count, folder)
    check_seed(settings["seed"])
    check_device(settings["device"])
    model_folder = resolve_local_model(model)
    check_few_steps(slow, model_folder)
    if model_folder is None or not all((model_folder / name).is_file() for name in (CONCEPTS_FILE, MOTIONS_FILE)):
        raise DianjingError("stickers_need_concepts", model=model)
    normalizer = PromptNormalizer.from_folder(model_folder)
    parsed = [theme for text in themes for theme in _read_themes(normalizer, text)]
    unknown = {word: nearest for text in themes for word, nearest in normalizer.find_nearest_words(text).items()}
    unknown |= {colour: () for text in themes for colour in _list_ignored_colours(normalizer, text)}
    reduced = tuple(text for text in themes if _says_more_than_objects(normalizer, text))
    count = choose_album_count(len(parsed)) if count is None else count
    if len(parsed) > count:
        raise DianjingError("album_count_too_small", num_objects=len(parsed), count=count, allowed=list(ALBUM_COUNTS))
    return StickersJob(
        themes=tuple(parsed),
        folder=folder,
        count=count,
        model=model,
        slow=slow,
        unknown_words=unknown,
        reduced_themes=reduced,
        **settings,
    )


def _read_themes(normalizer: PromptNormalizer, text: str) -> list[StickerTheme]:
    """Read the objects of a theme. Raises: DianjingError for a theme without one."""
    scene = normalizer.read_scene(text)
    if not scene.objects:
        raise DianjingError("sticker_theme_without_object", theme=text)
    themes = []
    for spec in scene.objects:
        known = normalizer.concept_vocabulary.find_object(spec.name)
        assert known is not None, "objects are read from the vocabulary"
        themes.append(StickerTheme(name=spec.name, meaning=known.names_zh[0], colour=spec.colour))
    return themes


def _list_ignored_colours(normalizer: PromptNormalizer, text: str) -> list[str]:
    """List the colors that a theme gives to objects with colors of their own, in the theme's language."""
    colours = [normalizer.concept_vocabulary.find_colour(name) for name in normalizer.read_scene(text).ignored_colours]
    is_english = detect_language(text) == "en"
    return [known.name_en if is_english else known.name_zh.removesuffix("的") for known in colours if known is not None]


def _says_more_than_objects(normalizer: PromptNormalizer, text: str) -> bool:
    """True for a theme with a background, a relation, a position, a number or a size."""
    scene = normalizer.read_scene(text)
    is_arranged = scene.background is not None or scene.relation is not None
    return is_arranged or any(spec.count > 1 or spec.size or spec.position for spec in scene.objects)


def list_theme_warnings(job: StickersJob) -> list[Message]:
    """List what the stickers of a job do not show of its themes."""
    warnings = []
    if job.unknown_words:
        warnings.append(Message("sticker_words_left_out", words=describe_words(job.unknown_words)))
    if job.reduced_themes:
        warnings.append(Message("sticker_theme_reduced", themes=list(job.reduced_themes)))
    return warnings


def run_stickers_job(job: StickersJob) -> dict[str, Any]:
    """Generate the stickers and write the album; return its paths and what each sticker shows."""
    from dianjing import TextToImagePipeline
    from dianjing.pipelines.sticker_animation import animate_sticker, choose_motions, cut_out_object

    start_s = time.monotonic()
    video_pipe = load_pipeline("ImageToVideoPipeline", model=job.model, device=job.device, dtype=job.dtype)
    image_pipe: Any = TextToImagePipeline.from_pipe(video_pipe)
    image_pipe.set_progress_bar_config(disable=True)
    motions = choose_motions(video_pipe.motion_vocabulary)
    images: dict[int, Any] = {}
    stickers, described = [], []
    for index in range(job.count):
        theme_index = index % len(job.themes)
        theme, motion = job.themes[theme_index], motions[index // len(job.themes) % len(motions)]
        if theme_index not in images:
            images[theme_index] = cut_out_object(
                image_pipe, theme.name, colour=theme.colour, seed=job.seed + theme_index, slow=job.slow
            )
        frames = animate_sticker(video_pipe, images[theme_index], motion)
        stickers.append(AlbumSticker(frames=frames, fps=video_pipe.config.default_fps, meaning=theme.meaning))
        described.append({"object": theme.name, "colour": theme.colour, "motion": motion, "meaning": theme.meaning})
    settings = get_sampling_metadata(image_pipe)
    label = None
    if job.producer is not None:
        label = serialize_label(make_aigc_label(stickers[0].frames.tobytes(), producer=job.producer))
    paths = write_album(stickers, job.folder, label=label)
    seconds = round(time.monotonic() - start_s, 3)
    return {
        "paths": [str(path) for path in paths],
        "seed": job.seed,
        "settings": settings,
        "stickers": described,
        "unknown_words": list(job.unknown_words),
        "nearest_words": job.unknown_words,
        "seconds": seconds,
    }
