"""Settings in messages are called what they are called on the page."""

import re

from dianjing.demo.errors import translate
from dianjing.demo.texts.interface import TEXTS

LABELS = {
    "prompt": "prompt",
    "negative_prompt": "negative_prompt",
    "width": "width",
    "height": "height",
    "num_inference_steps": "steps",
    "num_images": "draw_count",
    "num_images_per_prompt": "draw_count",
    "guidance_scale": "guidance",
    "motion": "animate_motion",
    "strength": "animate_strength",
    "seed": "seed",
    "num_frames": "animate_frames",
    "duration_s": "film_seconds",
    "fps": "film_fps",
}
FIRST_NAME = re.compile(rf"(?:{'|'.join(LABELS)})\b")


def told(message: str, language: str) -> str:
    """An error of the floors below for whoever reads the page: in their language, the setting by its label."""
    translated = translate(message, language)
    found = FIRST_NAME.match(message)
    if found is None or not translated.startswith(found[0]):
        return translated
    text = TEXTS[LABELS[found[0]]]
    label = f"“{text.zh}”" if language == "zh" else f"“{text.en}”"
    return label + translated.removeprefix(found[0])
