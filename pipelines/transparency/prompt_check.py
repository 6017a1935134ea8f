"""Check of prompts for images with a transparent background, without torch."""

from collections.abc import Sequence

from dianjing.errors import DianjingError
from dianjing.pipelines.prompting.normalization.normalizer import PromptNormalizer
from dianjing.pipelines.prompting.normalization.wording import contains_any


def check_transparent_prompt(
    normalizer: PromptNormalizer | None, prompt: str, trigger_words: Sequence[str] = ()
) -> None:
    """Raise DianjingError for a prompt without an object to cut out, where the model's objects are known.

    trigger_words: of adapters; what a prompt with one of them shows is not known.
    """
    if normalizer is None or contains_any(prompt, trigger_words):
        return
    if not normalizer.read_scene(prompt).objects:
        raise DianjingError("transparent_without_object", prompt=prompt)
