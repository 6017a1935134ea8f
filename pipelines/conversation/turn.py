"""One turn of a conversation, and its form in JSON: the image as PNG, the latents as float32, both in base64."""

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from dianjing.errors import DianjingError
from dianjing.pipelines.conversation.scene import Scene, deserialize_scene, serialize_scene
from dianjing.pipelines.validation import MAX_SIDE_PX, check_prompt, check_seed

MAX_TURN_TEXTS = 16  # changes or hints of one turn
MAX_LATENT_SIZE = 4096  # of each axis


@dataclass(frozen=True, kw_only=True, eq=False)
class Turn:
    """One instruction and the image that it led to.

    text: the instruction. prompt: caption of the whole scene. changes: one phrase an edit. hints: what was ignored, and
    why. latents: (1, C, Y, X), float32 on the CPU; the next image starts from them.
    """

    text: str
    prompt: str
    changes: tuple[str, ...]
    hints: tuple[str, ...]
    scene: Scene
    seed: int
    image: Image.Image
    latents: Any


def serialize_turn(turn: Turn) -> dict[str, Any]:
    """Convert a turn to values for JSON."""
    png = io.BytesIO()
    turn.image.save(png, format="PNG")
    latents = turn.latents.float().contiguous()
    return {
        "text": turn.text,
        "prompt": turn.prompt,
        "changes": list(turn.changes),
        "hints": list(turn.hints),
        "seed": turn.seed,
        "scene": serialize_scene(turn.scene),
        "png": base64.b64encode(png.getvalue()).decode("ascii"),
        "latents": {
            "shape": list(latents.shape),
            "float32": base64.b64encode(latents.numpy().astype("<f4").tobytes()).decode("ascii"),
        },
    }


def deserialize_turn(content: Mapping[str, Any]) -> Turn:
    """Convert values from JSON back to a turn. Raises: DianjingError, TypeError or KeyError."""
    if not isinstance(content, Mapping):
        raise DianjingError("content_field_not_object", name="turn", type=type(content).__name__)
    image, latents = _decode_image(content["png"]), _decode_latents(content["latents"])
    return Turn(
        text=check_prompt(content["text"], "text"),
        prompt=check_prompt(content["prompt"]),
        changes=_check_texts(content["changes"], "changes"),
        hints=_check_texts(content["hints"], "hints"),
        scene=deserialize_scene(content["scene"]),
        seed=check_seed(content["seed"]),
        image=image,
        latents=latents,
    )


def _check_texts(texts: Any, name: str) -> tuple[str, ...]:
    if not isinstance(texts, list) or len(texts) > MAX_TURN_TEXTS:
        raise DianjingError("content_field_not_list", name=name, max_length=MAX_TURN_TEXTS)
    return tuple(check_prompt(each, name) for each in texts)


def _decode_base64(encoded: Any, name: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (TypeError, ValueError):
        raise DianjingError("content_field_not_base64", name=name) from None


def _decode_image(encoded: Any) -> Image.Image:
    try:
        with Image.open(io.BytesIO(_decode_base64(encoded, "png")), formats=("PNG",)) as image:
            if max(image.size) > MAX_SIDE_PX:
                raise DianjingError(
                    "turn_image_too_large", width=image.width, height=image.height, max_side=MAX_SIDE_PX
                )
            return image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError):
        raise DianjingError("turn_image_unreadable") from None


def _decode_latents(content: Mapping[str, Any]) -> Any:
    import torch

    if not isinstance(content, Mapping):
        raise DianjingError("content_field_not_object", name="latents", type=type(content).__name__)
    shape = content["shape"]
    is_list = isinstance(shape, list) and len(shape) == 4
    if not is_list or not all(type(size) is int and 1 <= size <= MAX_LATENT_SIZE for size in shape):
        raise DianjingError("latents_wrong_shape", max_size=MAX_LATENT_SIZE)
    values, expected = bytearray(_decode_base64(content["float32"], "latents")), 4 * math.prod(shape)
    if len(values) != expected:
        raise DianjingError("latents_wrong_length", shape=str(shape), num_bytes=len(values), expected=expected)
    latents = torch.frombuffer(values, dtype=torch.float32).reshape(shape)
    if not latents.isfinite().all():
        raise DianjingError("latents_not_finite")
    return latents
