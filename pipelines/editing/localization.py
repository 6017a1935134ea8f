"""Words to points: where in an image the diffusion model sees what a phrase names, without training.

Latents are (1, C, Y, X).
"""

import re
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dianjing.errors import DianjingError
from dianjing.pipelines.conversation.captions import caption_background, caption_object
from dianjing.pipelines.conversation.parsing.base import detect_language
from dianjing.pipelines.conversation.scene import POSITIONS
from dianjing.pipelines.prompting.localization import compute_relevance_map, find_peaks
from dianjing.pipelines.prompting.motion_prompt import MotionPromptParser, Subject
from dianjing.pipelines.prompting.motions import MotionVocabulary
from dianjing.pipelines.segmentation.base import Point
from dianjing.pipelines.vae import encode_images

WINDOW_DIVISOR = 32  # relevance is averaged over windows of a sixteenth of the shorter side, and one latent at least
DEFINITE_ARTICLE = re.compile(r"^\s*(?:the|this|that)\s+", re.IGNORECASE)
DEMONSTRATIVE_ZH = re.compile(r"^\s*[那这]")


def make_indefinite(phrase: str) -> str:
    """Put the indefinite article in place of the definite one, as in captions: the cat -> a cat, 那只猫 -> 一只猫."""
    return DEMONSTRATIVE_ZH.sub("一", DEFINITE_ARTICLE.sub("a ", phrase))


def locate_words(pipe: Any, image: Image.Image, phrase: str) -> list[Point]:
    """Locate what a phrase names: a point in px of the image for each object of the phrase, or one for the phrase.

    pipe: an image pipeline.
    Raises: DianjingError for words that the model does not know.
    """
    return find_relevant_points(*compute_word_relevance(pipe, image, phrase), size=image.size)


def find_relevant_points(relevance_map: Tensor, counts: list[int], *, size: tuple[int, int]) -> list[Point]:
    """Find the peaks of a relevance map (K, Y, X), `counts[k]` of each subject, in px of an image.

    size: (width, height) of the image.
    """
    rows, columns = relevance_map.shape[-2:]
    window = 2 * (min(rows, columns) // WINDOW_DIVISOR) + 1
    peaks = find_peaks(relevance_map, counts, window=window)
    scale_x, scale_y = size[0] / columns, size[1] / rows
    return [Point(x=(x + 0.5) * scale_x, y=(y + 0.5) * scale_y) for group in peaks for x, y in group]


@torch.no_grad()
def compute_word_relevance(pipe: Any, image: Image.Image, phrase: str) -> tuple[Tensor, list[int]]:
    """Compute where in an image the words of each subject of a phrase help: (K, Y, X), and the number of its objects.

    pipe: an image pipeline. The model predicts the noise in the image with the phrase and without the subject; where
    the words help most, there the object is. A phrase without known objects is one subject. A single object may be
    anywhere: it is described at each position, and where any of these helps, it is.
    Raises: DianjingError for words that the model does not know.
    """
    phrase = make_indefinite(phrase)
    if unknown := pipe.find_unknown_words(phrase):
        raise DianjingError("edit_words_unknown", words=unknown)
    width, height = pipe.choose_start_size(image.size)
    pixels = pipe.preprocess_image(image, height=height, width=width)
    latents = encode_images(pipe.vae, pixels.to(pipe.execution_device))

    sizes = (height, width, height, width, 0, 0)
    relevance_map = compute_object_relevance(pipe, latents, phrase, image_meta_size=sizes)
    if relevance_map is not None:
        return relevance_map, [1]
    subjects = _parse_subjects(pipe, phrase)
    embeds = pipe.encode_texts([phrase, *(subject.prompt_without for subject in subjects)])
    scheduler = pipe.trained_scheduler or pipe.scheduler
    relevance_map = compute_relevance_map(pipe.transformer, scheduler, latents, embeds, image_meta_size=sizes)
    return relevance_map, [subject.count for subject in subjects]


@torch.no_grad()
def compute_object_relevance(
    pipe: Any, latents: Tensor, phrase: str, *, image_meta_size: tuple[int, ...]
) -> Tensor | None:
    """Compute where in an image the words for the single object of a phrase help, wherever it is: (1, Y, X).

    The object is described at each position, and where any of these captions helps most, it is. Returns None for a
    phrase of several objects or with a position, and for a model without a vocabulary of concepts.
    """
    if pipe.prompt_normalizer is None:
        return None
    scene = pipe.prompt_normalizer.read_scene(phrase)
    if [(each.count, each.position) for each in scene.objects] != [(1, None)]:
        return None
    [named] = scene.objects
    vocabulary, language = pipe.concept_vocabulary, detect_language(phrase)
    prompts = [
        caption_background(scene.background, vocabulary, language=language),
        *(
            caption_object(named, scene.background, vocabulary, language=language, position=position, size=named.size)
            for position in POSITIONS
        ),
    ]
    scheduler = pipe.trained_scheduler or pipe.scheduler
    embeds = pipe.encode_texts(prompts)
    added_errors = compute_relevance_map(pipe.transformer, scheduler, latents, embeds, image_meta_size=image_meta_size)
    return -added_errors.amin(dim=0, keepdim=True)


def _parse_subjects(pipe: Any, phrase: str) -> list[Subject]:
    """The objects of a phrase that the model has names for, or the phrase as one object."""
    as_one_object = [Subject(phrase=phrase, count=1, prompt_without="", motion=None)]
    if pipe.concept_vocabulary is None:
        return as_one_object
    return list(MotionPromptParser(MotionVocabulary(), pipe.concept_vocabulary).parse(phrase).subjects) or as_one_object
