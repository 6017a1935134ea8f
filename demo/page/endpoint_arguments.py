"""Arguments of the endpoints: their descriptions for clients, and their conversion from plain JSON."""

import inspect
from collections.abc import Callable
from typing import TypeVar

from dianjing.errors import DianjingError
from dianjing.pipelines.segmentation.base import Point, Region

F = TypeVar("F", bound=Callable)

ARGUMENT_DESCRIPTIONS = {
    "prompt": "what to generate, in Chinese or English",
    "negative_prompt": "what to avoid",
    "width": "px; the model's own size if left out",
    "height": "px; the model's own size if left out",
    "num_inference_steps": "denoising steps; more give finer results and take longer",
    "guidance_scale": "higher values follow the prompt more closely; 1 switches guidance off",
    "guidance_mode": "how to guide, such as apg or pag:layers=3+4; the usual guidance if left out",
    "scheduler": "a scheduler of diffusers, such as EulerDiscreteScheduler:use_karras_sigmas; the model's if left out",
    "seed": "a whole number; the same seed gives the same result",
    "num_images": "how many images; image i uses the seed seed + i",
    "seconds": "the duration of the video",
    "num_frames": "the length of the video in frames",
    "image": "a PNG, JPEG or WebP in base64",
    "regions": "what moves: points on it, and its motion, such as jump; strength is a number from 0 to 1",
    "points": "clicks [x, y] in pixels from the top left corner",
    "labels": "for each point 1 for the object, or 0 for its surroundings",
    "text": "what to generate, or what to change in the last image, in Chinese or English",
    "conversation": "the field of the same name of the last answer; empty to start a new conversation",
}
REGION_FIELDS = {"points", "labels", "motion", "strength"}


def document_arguments(endpoint: F) -> F:
    """Append the descriptions of a function's arguments to its docstring, in the form that Gradio reads."""
    lines = [
        f"{name}: {ARGUMENT_DESCRIPTIONS[name]}"
        for name in inspect.signature(endpoint).parameters
        if name in ARGUMENT_DESCRIPTIONS
    ]
    endpoint.__doc__ = "\n".join([inspect.getdoc(endpoint) or "", "Args:", *lines])
    return endpoint


def parse_points(points: object, labels: object) -> list[Point]:
    """Convert points [x, y] with a label for each. Raises: DianjingError."""
    pairs = points if isinstance(points, list) else []
    point_labels = labels if isinstance(labels, list) else []
    if len(pairs) != len(point_labels):
        raise DianjingError("labels_do_not_match_points", labels=len(point_labels), points=len(pairs))
    for point in pairs:
        is_pair = isinstance(point, list) and len(point) == 2
        if not is_pair or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in point):
            raise DianjingError("point_not_a_pair", point=str(point)[:60])
    return [Point(x=x, y=y, positive=bool(label)) for (x, y), label in zip(pairs, point_labels, strict=True)]


def parse_region(number: int, region: object) -> Region:
    """Convert a region with points, labels (1 for all if left out), motion and strength. Raises: DianjingError."""
    if not isinstance(region, dict) or not {"points", "motion"} <= set(region) <= REGION_FIELDS:
        raise DianjingError("region_not_an_object", number=number)
    points = region["points"]
    labels = region.get("labels", [1] * len(points) if isinstance(points, list) else [])
    strength = {"strength": region["strength"]} if "strength" in region else {}
    return Region(motion=region["motion"], points=parse_points(points, labels), **strength)
