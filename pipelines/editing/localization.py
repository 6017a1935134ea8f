"""Words to points: where in an image the diffusion model sees what a phrase names, without training.

Latents are (1, C, Y, X).
"""

import re
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dianjing.errors import DianjingError
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
    the words help most, there the object is. A phrase without known objects is one subject.
    Raises: DianjingError for words that the model does not know.
    """
    phrase = make_indefinite(phrase)
    if unknown := pipe.find_unknown_words(phrase):
        raise DianjingError("edit_words_unknown", words=unknown)
    width, height = pipe.choose_start_size(image.size)
    pixels = pipe.preprocess_image(image, height=height, width=width)
    latents = encode_images(pipe.vae, pixels.to(pipe.execution_device))
    subjects = _parse_subjects(pipe, phrase)
    embeds = pipe.encode_texts([phrase, *(subject.prompt_without for subject in subjects)])
    relevance_map = compute_relevance_map(
        pipe.transformer,
        pipe.trained_scheduler or pipe.scheduler,
        latents,
        embeds,
        image_meta_size=(height, width, height, width, 0, 0),
    )
    return relevance_map, [subject.count for subject in subjects]


def _parse_subjects(pipe: Any, phrase: str) -> list[Subject]:
    """The objects of a phrase that the model has names for, or the phrase as one object."""
    as_one_object = [Subject(phrase=phrase, count=1, prompt_without="", motion=None)]
    if pipe.concept_vocabulary is None:
        return as_one_object
    return list(MotionPromptParser(MotionVocabulary(), pipe.concept_vocabulary).parse(phrase).subjects) or as_one_object
