"""Arguments of the endpoints: their descriptions for clients, and their conversion from plain JSON."""

import inspect
from collections.abc import Callable
from typing import TypeVar

from typing_extensions import TypedDict

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
    "slow": "true: the model's own many guided steps; false: its adapter for few steps, also beside other adapters",
    "seed": "a whole number; the same seed gives the same result",
    "num_images": "how many images; image i uses the seed seed + i",
    "seconds": "the duration of the video",
    "num_frames": "the length of the video in frames",
    "image": "a PNG, JPEG or WebP in base64",
    "mask": "what may change, white on black: an image in base64 of the same size",
    "words": "what may change, in words, in place of a mask: the cat",
    "extend": "how far to continue the image beyond its border, in place of a mask: left=64,top=32",
    "strength": "how far to go from the image, from 0 to 1",
    "regions": "what moves: points on it, and its motion, such as jump, or its path; or target image, a camera move",
    "points": "clicks [x, y] in pixels from the top left corner",
    "labels": "for each point 1 for the object, or 0 for its surroundings",
    "refine": "on: the model generates the frames; off: the image itself moves, at its own size; auto: by the image",
    "video_model": "a published video model of the server, by name; the server's own model if left out",
    "strict_background": "false leaves what no region moves over to a published model, which else keeps it",
    "text": "what to generate, or what to change in the last image, in Chinese or English",
    "conversation": "the field of the same name of the last answer; empty to start a new conversation",
}
PLAIN_REGION_FIELDS = ("motion", "strength", "path", "turn", "scale", "times", "target")  # as `Region` takes them
MOVING_FIELDS = {"motion", "path", "turn", "scale"}  # of which a region has one at least
REGION_FIELDS = {"points", "labels", "anchor", *PLAIN_REGION_FIELDS}


def document_arguments(endpoint: F) -> F:
    """Append the descriptions of a function's arguments to its docstring, in the form that Gradio reads."""
    lines = [
        f"{name}: {ARGUMENT_DESCRIPTIONS[name]}"
        for name in inspect.signature(endpoint).parameters
        if name in ARGUMENT_DESCRIPTIONS
    ]
    endpoint.__doc__ = "\n".join([inspect.getdoc(endpoint) or "", "Args:", *lines])
    return endpoint


class RegionArguments(TypedDict, total=False):
    """A region as programs give it; `parse_region` says which fields are required."""

    points: list[list[float]]
    labels: list[int]
    motion: str
    strength: float
    path: list[list[float]]
    turn: float
    scale: float
    times: list[float]
    anchor: list[float]
    target: str


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
    """Convert a region with the fields of `RegionArguments`; labels that are left out are 1.

    Raises: DianjingError.
    """
    if not isinstance(region, dict) or not MOVING_FIELDS & set(region) or not set(region) <= REGION_FIELDS:
        raise DianjingError("region_not_an_object", number=number, allowed=sorted(REGION_FIELDS))
    points = region.get("points", [])
    labels = region.get("labels", [1] * len(points) if isinstance(points, list) else [])
    fields = {name: region[name] for name in PLAIN_REGION_FIELDS if name in region}
    if region.get("anchor") is not None:
        (fields["anchor"],) = parse_points([region["anchor"]], [1])
    return Region(points=parse_points(points, labels), **fields)
