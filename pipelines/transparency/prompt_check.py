"""Check of prompts for images and videos with a transparent background, without torch."""

from collections.abc import Sequence
from pathlib import Path

from dianjing.errors import DianjingError
from dianjing.pipelines.prompting.motion_prompt import MotionPrompt, MotionPromptParser, list_motion_names
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


def parse_transparent_motion(parser: MotionPromptParser, prompt: str) -> MotionPrompt:
    """Parse the prompt of a video with a transparent background. Raises: DianjingError for one without a motion."""
    motion_prompt = parser.parse(prompt)
    if not motion_prompt.has_motion:
        raise DianjingError("transparent_without_motion", known=list_motion_names(parser))
    return motion_prompt


def check_transparent_video_prompt(folder: Path, prompt: str) -> None:
    """Check the prompt of a video with a transparent background by the vocabularies in a model's folder.

    Raises: DianjingError for a prompt without an object or a motion.
    """
    normalizer = PromptNormalizer.from_folder(folder, keeps_motions=True)
    check_transparent_prompt(normalizer, prompt)
    parser = MotionPromptParser(normalizer.motion_vocabulary, normalizer.concept_vocabulary)
    parse_transparent_motion(parser, normalizer.normalize(prompt).text)
