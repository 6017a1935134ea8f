"""One turn of a conversation, and its form in JSON: the image as PNG, the latents as float32, both in base64."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from dianjing.pipelines.conversation.scene import Scene, deserialize_scene, serialize_scene
from dianjing.pipelines.validation import MAX_SIDE_PX, check_prompt, check_seed

MAX_TURN_TEXTS = 16  # changes or hints of one turn


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
    """Convert values from JSON back to a turn. Raises: ValueError, TypeError or KeyError for anything else."""
    if not isinstance(content, Mapping):
        raise TypeError(f"a turn is of type {type(content).__name__}; it should be an object")
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
        raise ValueError(f"{name} should be a list of at most {MAX_TURN_TEXTS} texts")
    return tuple(check_prompt(each, name) for each in texts)


def _decode_base64(encoded: Any, name: str) -> bytes:
    if not isinstance(encoded, str):
        raise TypeError(f"{name} is of type {type(encoded).__name__}; it should be base64")
    return base64.b64decode(encoded, validate=True)


def _decode_image(encoded: Any) -> Image.Image:
    try:
        with Image.open(io.BytesIO(_decode_base64(encoded, "png")), formats=("PNG",)) as image:
            if max(image.size) > MAX_SIDE_PX:
                raise ValueError(f"a picture is {image.width} x {image.height} px; at most {MAX_SIDE_PX} are taken")
            return image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"a picture cannot be read ({error})") from None


def _decode_latents(content: Mapping[str, Any]) -> Any:
    import torch

    shape = content["shape"]
    if not isinstance(shape, list) or len(shape) != 4 or not all(type(n) is int and 1 <= n <= 4096 for n in shape):
        raise ValueError("latents should have a shape of four whole numbers")
    values = bytearray(_decode_base64(content["float32"], "latents"))
    if len(values) != 4 * shape[0] * shape[1] * shape[2] * shape[3]:
        raise ValueError(f"latents of shape {shape} have {len(values)} bytes")
    latents = torch.frombuffer(values, dtype=torch.float32).reshape(shape)
    if not latents.isfinite().all():
        raise ValueError("latents hold values that are no numbers")
    return latents
