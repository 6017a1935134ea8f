"""Image conditions of a request: control images for named ControlNets, and pictures for an IP-Adapter.

They are checked before torch is imported and weights are loaded.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dianjing.errors import DianjingError
from dianjing.pipelines.control_maps import ControlMapMaker, check_preprocessor, infer_preprocessor
from dianjing.pipelines.media.image import check_image, get_input_image_metadata, open_image
from dianjing.pipelines.validation import check_number, format_value
from dianjing.weights.controlnet_files import check_controlnet_path
from dianjing.weights.registry import get_controlnet_repository

MAX_CONDITIONING_SCALE = 2.0
MAX_PICTURE_SCALE = 2.0
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
CONTROL_PATTERN = re.compile(rf"(?P<path>.+?)(?::(?P<scale>{NUMBER})(?::(?P<start>{NUMBER})-(?P<end>{NUMBER}))?)?")
PICTURE_PATTERN = re.compile(rf"(?P<path>.+?)(?::(?P<scale>{NUMBER}))?")


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlInput:
    """A control image for a ControlNet, or a picture for a preprocessor to make it from.

    controlnet: its name; None for the only one. preprocessor: None for an image that is a control map already.
    guidance_start and guidance_end: fractions of the steps.
    Raises: DianjingError for a value that is out of range.
    """

    image: Image.Image
    controlnet: str | None = None
    preprocessor: str | None = None
    conditioning_scale: float = 1.0
    guidance_start: float = 0.0
    guidance_end: float = 1.0

    def __post_init__(self) -> None:
        limits = {"conditioning_scale": MAX_CONDITIONING_SCALE, "guidance_start": 1, "guidance_end": 1}
        for name, high in limits.items():
            object.__setattr__(self, name, check_number(getattr(self, name), name, low=0, high=high))
        if self.guidance_start >= self.guidance_end:
            raise DianjingError(
                "control_guidance_empty", start=f"{self.guidance_start:g}", end=f"{self.guidance_end:g}"
            )
        object.__setattr__(self, "image", check_image(self.image))

    def describe(self) -> dict[str, object]:
        """Describe the control for generation metadata."""
        names = ("preprocessor", "conditioning_scale", "guidance_start", "guidance_end")
        settings = {name: getattr(self, name) for name in names}
        return {"name": self.controlnet, **settings, "image": get_input_image_metadata(self.image)}


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureInput:
    """A picture for an IP-Adapter, and its strength. Raises: DianjingError for a value that is out of range."""

    image: Image.Image
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", check_number(self.scale, "scale", low=0, high=MAX_PICTURE_SCALE))
        object.__setattr__(self, "image", check_image(self.image))

    def describe(self) -> dict[str, object]:
        """Describe the picture for generation metadata."""
        return {"scale": self.scale, "image": get_input_image_metadata(self.image)}


def parse_controlnets(texts: Sequence[str]) -> dict[str, str]:
    """Parse "NAME=PATH" or "PATH" of several ControlNets to their paths by name; the last part of a path is its name.

    Raises: DianjingError for a path that is no ControlNet, or a name that is given twice.
    """
    paths: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            name, path = "", text
        check_controlnet_path(path)
        stem = name or (Path(path).resolve().name if Path(path).is_dir() else path.rpartition("/")[2])
        if name in paths:
            raise DianjingError("controlnet_name_twice", name=name)
        number = 1
        while (unique := stem if number == 1 else f"{stem}-{number}") in paths:
            number += 1
        paths[unique] = path
    return paths


def parse_preprocessors(texts: Sequence[str]) -> dict[str, str]:
    """Parse "depth=FOLDER" to the folders of preprocessors' models by name. Raises: DianjingError."""
    folders = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise DianjingError("preprocessor_malformed", value=format_value(text))
        check_preprocessor(name, folder=folder)
        folders[name] = folder
    return folders


def parse_controls(
    maps: Sequence[str],
    pictures: Sequence[str],
    *,
    controlnets: Mapping[str, str],
    preprocessor_folders: Mapping[str, str],
    model: str,
) -> tuple[list[ControlInput], dict[str, str]]:
    """Parse "NAME=MAP.png:0.8:0-0.6" of control maps and of pictures for preprocessors, and open the images.

    controlnets: paths by name; other names are those of ControlNets that are published for the model. Returns the
    controls, and the paths of all ControlNets that they need.
    Raises: DianjingError for an unknown name, a missing image, or a number out of range.
    """
    controls, paths = [], {}
    for text, is_map in [*((text, True) for text in maps), *((text, False) for text in pictures)]:
        name, equals, rest = text.partition("=")
        if not (name and equals and rest):
            raise DianjingError("control_malformed", value=format_value(text))
        path = controlnets.get(name) or get_controlnet_repository(model, name)
        if path is None:
            raise DianjingError("control_name_unknown", name=format_value(name), names=list(controlnets) or ["-"])
        preprocessor = None if is_map else infer_preprocessor(name)
        if not is_map:
            check_preprocessor(preprocessor or name, folder=preprocessor_folders.get(preprocessor or ""))
        found = _match(CONTROL_PATTERN, rest)
        groups = {"conditioning_scale": "scale", "guidance_start": "start", "guidance_end": "end"}
        numbers = {field: float(found[group]) for field, group in groups.items() if found.get(group) is not None}
        image = open_image(found["path"])
        controls.append(ControlInput(controlnet=name, image=image, preprocessor=preprocessor, **numbers))
        paths[name] = path
    return controls, paths


def parse_pictures(texts: Sequence[str]) -> list[PictureInput]:
    """Parse "FILE" or "FILE:0.6" of pictures for an IP-Adapter, and open them. Raises: DianjingError."""
    pictures = []
    for text in texts:
        found = _match(PICTURE_PATTERN, text)
        scale = 1.0 if found.get("scale") is None else float(found["scale"])
        pictures.append(PictureInput(image=open_image(found["path"]), scale=scale))
    return pictures


def _match(pattern: re.Pattern[str], text: str) -> dict[str, Any]:
    """The groups of a text with numbers at its end; a file of this very name has none."""
    match = pattern.fullmatch(text)
    return {"path": text} if match is None or Path(text).exists() else match.groupdict()


def make_control_arguments(
    controls: Sequence[ControlInput], preprocessors: Mapping[str, ControlMapMaker]
) -> dict[str, Any]:
    """Arguments of a call for its controls, in the order of the pipeline's ControlNets; none without controls."""
    if not controls:
        return {}
    images = [
        each.image if each.preprocessor is None else preprocessors[each.preprocessor](each.image) for each in controls
    ]
    return {
        "control_image": images,
        "controlnet_conditioning_scale": [each.conditioning_scale for each in controls],
        "control_guidance_start": [each.guidance_start for each in controls],
        "control_guidance_end": [each.guidance_end for each in controls],
    }


def describe_conditions(controls: Sequence[ControlInput], pictures: Sequence[PictureInput]) -> dict[str, object]:
    """Settings of generation metadata: `controls` and `ip_adapter_images`, where there are any."""
    settings: dict[str, object] = {}
    if controls:
        settings["controls"] = [each.describe() for each in controls]
    if pictures:
        settings["ip_adapter_images"] = [each.describe() for each in pictures]
    return settings
