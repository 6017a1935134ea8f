"""A conversation as JSON: what was said, understood and drawn; pictures as PNG, latents as float32, both in base64."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from dianjing.pipelines.conversation import scenes
from dianjing.pipelines.media import check_output, write_whole
from dianjing.pipelines.request import MAX_SIDE_PX, check_prompt, check_seed

if TYPE_CHECKING:
    from dianjing.pipelines.conversation.talk import Conversation, Turn

FORMAT = "dianjing conversation 1"
MAX_FILE_BYTES = 256 * 2**20
MAX_TURNS = 1000
MAX_TEXTS = 16  # changes or hints of one turn


def write(conversation: "Conversation", path: Path) -> None:
    """Raises: ValueError for a path that cannot be written."""
    check_output(path, endings=(".json",))
    content = {
        "format": FORMAT,
        "seed": conversation.seed,
        "num_inference_steps": conversation.num_inference_steps,
        "guidance_scale": conversation.guidance_scale,
        "turns": [_to_json(turn) for turn in conversation.turns],
    }
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    write_whole(path, lambda file: file.write(text.encode("utf-8")))


def _to_json(turn: "Turn") -> dict[str, Any]:
    png = io.BytesIO()
    turn.image.save(png, format="PNG")
    latents = turn.latents.float().contiguous()
    return {
        "text": turn.text,
        "prompt": turn.prompt,
        "changes": list(turn.changes),
        "hints": list(turn.hints),
        "seed": turn.seed,
        "scene": scenes.to_json(turn.scene),
        "png": base64.b64encode(png.getvalue()).decode("ascii"),
        "latents": {
            "shape": list(latents.shape),
            "float32": base64.b64encode(latents.numpy().astype("<f4").tobytes()).decode("ascii"),
        },
    }


def read(path: Path, *, model: Any, **options: Any) -> "Conversation":
    """Raises: ValueError for a file that is missing, too large, or holds no conversation."""
    from dianjing.pipelines.conversation.talk import Conversation

    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_FILE_BYTES:
            raise ValueError(f"{path} has {size_bytes:,} bytes; a conversation has at most {MAX_FILE_BYTES:,}")
        content = json.loads(path.read_bytes().decode("utf-8"))
        if not isinstance(content, Mapping) or content.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        if not isinstance(content["turns"], list) or len(content["turns"]) > MAX_TURNS:
            raise ValueError(f"turns should be a list of at most {MAX_TURNS}")
        conversation = Conversation(
            model,
            seed=content["seed"],
            num_inference_steps=content["num_inference_steps"],
            guidance_scale=content["guidance_scale"],
            **options,
        )
        conversation.turns = tuple(_from_json(turn) for turn in content["turns"])
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except RecursionError:
        raise ValueError(f"{path} holds no conversation: it is nested too deeply") from None
    except KeyError as key:
        raise ValueError(f"{path} holds no conversation that can be gone on with: {key} is missing") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no conversation that can be gone on with: {error}") from None
    return conversation


def _from_json(given: Mapping[str, Any]) -> "Turn":
    from dianjing.pipelines.conversation.talk import Turn

    if not isinstance(given, Mapping):
        raise TypeError(f"a turn is of type {type(given).__name__}; it should be an object")
    image, latents = _image(given["png"]), _latents(given["latents"])
    return Turn(
        text=check_prompt(given["text"], "text"),
        prompt=check_prompt(given["prompt"]),
        changes=_texts(given["changes"], "changes"),
        hints=_texts(given["hints"], "hints"),
        scene=scenes.from_json(given["scene"]),
        seed=check_seed(given["seed"]),
        image=image,
        latents=latents,
    )


def _texts(given: Any, name: str) -> tuple[str, ...]:
    if not isinstance(given, list) or len(given) > MAX_TEXTS:
        raise ValueError(f"{name} should be a list of at most {MAX_TEXTS} texts")
    return tuple(check_prompt(each, name) for each in given)


def _bytes(given: Any, name: str) -> bytes:
    if not isinstance(given, str):
        raise TypeError(f"{name} is of type {type(given).__name__}; it should be base64")
    return base64.b64decode(given, validate=True)


def _image(given: Any) -> Image.Image:
    try:
        with Image.open(io.BytesIO(_bytes(given, "png")), formats=("PNG",)) as image:
            if max(image.size) > MAX_SIDE_PX:
                raise ValueError(f"a picture is {image.width} x {image.height} px; at most {MAX_SIDE_PX} are taken")
            return image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"a picture cannot be read ({error})") from None


def _latents(given: Mapping[str, Any]) -> Any:
    import torch

    shape = given["shape"]
    if not isinstance(shape, list) or len(shape) != 4 or not all(type(n) is int and 1 <= n <= 4096 for n in shape):
        raise ValueError("latents should have a shape of four whole numbers")
    values = bytearray(_bytes(given["float32"], "latents"))
    if len(values) != 4 * shape[0] * shape[1] * shape[2] * shape[3]:
        raise ValueError(f"latents of shape {shape} have {len(values)} bytes")
    latents = torch.frombuffer(values, dtype=torch.float32).reshape(shape)
    if not latents.isfinite().all():
        raise ValueError("latents hold values that are no numbers")
    return latents
