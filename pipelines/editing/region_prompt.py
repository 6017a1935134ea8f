"""Prompt of the masked part of an image: the objects of a prompt that the rest of the image does not show.

The bundled model mixes the objects of a prompt where only one of them has room. It generates that one alone better, at
its position and on its background, as in conversations.

Masks are bool (H, W); latents are (1, C, Y, X).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from dianjing.pipelines.conversation.captions import build_noun_phrase, caption_background, compose_caption
from dianjing.pipelines.conversation.edits import ObjectSpec
from dianjing.pipelines.conversation.parsing.base import detect_language
from dianjing.pipelines.conversation.scene import POSITIONS
from dianjing.pipelines.image_start import to_latent_mask
from dianjing.pipelines.prompting.concepts import ConceptVocabulary
from dianjing.pipelines.prompting.localization import compute_relevance_map
from dianjing.pipelines.prompting.normalization.scene_reading import PromptScene
from dianjing.pipelines.prompting.normalization.wording import contains_any
from dianjing.pipelines.vae import encode_images

POSITION_CENTERS = (0.25, 0.5, 0.75)  # of the three columns and rows of positions, in image sides
MAX_BOX_FRACTION = 0.8  # of the image; a mask whose box is larger is the background or the whole scene
STAND_INS = ("balloon", "star")  # for an object that a caption is to lack while the others keep their places
PRESENT_FRACTION = 0.5  # of the largest relevance of an object to the known part: one of more relevance is there


def find_position(mask: np.ndarray) -> str | None:
    """Find the one of POSITIONS that the box of a mask is nearest to; None for a box of about the whole image."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    spans = [(each[0], each[-1] + 1) for each in (rows, columns)]
    fractions = [(stop - start) / side for (start, stop), side in zip(spans, mask.shape, strict=True)]
    if np.prod(fractions) > MAX_BOX_FRACTION:
        return None
    centers = [(start + stop) / (2 * side) for (start, stop), side in zip(spans, mask.shape, strict=True)]
    row, column = (int(np.argmin(np.abs(np.subtract(POSITION_CENTERS, center)))) for center in centers)
    return POSITIONS[3 * row + column]


def make_region_prompt(pipe: Any, image: Image.Image, mask: np.ndarray, prompt: str, *, is_cropped: bool) -> str:
    """Make the prompt of what a mask of an image may show, for the bundled model; for others, the prompt itself.

    It is the prompt itself also where the image outside the mask shows all of its objects, or none of several, for a
    mask of about the whole image, and with trigger words of adapters. is_cropped: the model works on the part of the
    image around the mask alone.
    """
    position = find_position(mask)
    if pipe.prompt_normalizer is None or position is None or contains_any(prompt, pipe.list_trigger_words()):
        return prompt
    if is_cropped:
        position = "center"
    scene: PromptScene = pipe.prompt_normalizer.read_scene(prompt)
    if not scene.objects:
        return prompt
    language = detect_language(prompt)

    def caption(objects: Sequence[ObjectSpec], **arrangement: str | None) -> str:
        return _caption_objects(objects, scene.background, pipe.concept_vocabulary, language=language, **arrangement)

    without_each = [caption(_leave_out(one, scene.objects), relation=scene.relation) for one in scene.objects]
    relevances = _measure_relevance(pipe, image, mask, [caption(scene.objects, relation=scene.relation), *without_each])
    threshold = PRESENT_FRACTION * max(0.0, *relevances)
    new = [each for each, relevance in zip(scene.objects, relevances, strict=True) if relevance <= threshold]
    if not new or len(new) == len(scene.objects) > 1:
        return prompt
    pipe.warn_about_unknown_words(prompt)  # the caption has known words alone
    return caption(new, position=position if len(new) == new[0].count == 1 else None)


def _leave_out(one: ObjectSpec, objects: Sequence[ObjectSpec]) -> list[ObjectSpec]:
    """The objects without one of them: of several, another object stands in for it."""
    if len(objects) == 1:
        return []
    names = {each.name for each in objects}
    name = next((each for each in STAND_INS if each not in names), STAND_INS[0])
    return [ObjectSpec(name=name, count=each.count) if each is one else each for each in objects]


def _caption_objects(
    objects: Sequence[ObjectSpec],
    background: str | None,
    vocabulary: ConceptVocabulary,
    *,
    language: str,
    relation: str | None = None,
    position: str | None = None,
) -> str:
    """Describe objects on a background as training captions do; without objects, the background alone."""
    if not objects:
        return caption_background(background, vocabulary, language=language)
    phrases = [
        build_noun_phrase(each, vocabulary, language=language, count=each.count, size=each.size) for each in objects
    ]
    return compose_caption(
        phrases, vocabulary, relation=relation, position=position, background=background, language=language
    )


@torch.no_grad()
def _measure_relevance(pipe: Any, image: Image.Image, mask: np.ndarray, captions: list[str]) -> list[float]:
    """Measure how much each object reduces the prediction error outside a mask, which one does that is there.

    captions: of all objects, and then without each of them.
    """
    width, height = pipe.choose_start_size(image.size)
    pixels = pipe.preprocess_image(image, height=height, width=width)
    latents = encode_images(pipe.vae, pixels.to(pipe.execution_device))
    relevance_map = compute_relevance_map(
        pipe.transformer,
        pipe.trained_scheduler or pipe.scheduler,
        latents,
        pipe.encode_texts(captions),
        image_meta_size=(height, width, height, width, 0, 0),
    )
    changes = to_latent_mask(torch.from_numpy(mask)[None, None], latents.shape[-2:])[0, 0].to(relevance_map)
    is_known = 1 - changes
    return ((relevance_map * is_known).sum(dim=(1, 2)) / is_known.sum().clamp_min(1)).tolist()
