"""Conversation files: one JSON file with the settings and all turns, images and latents included."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dianjing.pipelines.media.atomic import check_output_path, write_atomic

if TYPE_CHECKING:
    from dianjing.pipelines.conversation.session import Conversation
from dianjing.pipelines.conversation.turn import deserialize_turn, serialize_turn

CONVERSATION_FORMAT = "dianjing conversation 1"
MAX_FILE_BYTES = 256 * 2**20
MAX_TURNS = 1000


def write_conversation_file(conversation: "Conversation", path: Path) -> None:
    """Raises: ValueError for a path that cannot be written."""
    check_output_path(path, extensions=(".json",))
    content = {
        "format": CONVERSATION_FORMAT,
        "seed": conversation.seed,
        "num_inference_steps": conversation.num_inference_steps,
        "guidance_scale": conversation.guidance_scale,
        "turns": [serialize_turn(turn) for turn in conversation.turns],
    }
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    write_atomic(path, lambda file: file.write(text.encode("utf-8")))


def read_conversation_file(path: Path, *, model: Any, **options: Any) -> "Conversation":
    """Raises: ValueError for a file that is missing, too large, or holds no conversation."""
    from dianjing.pipelines.conversation.session import Conversation

    try:
        size_bytes = path.stat().st_size
        if size_bytes > MAX_FILE_BYTES:
            raise ValueError(f"{path} has {size_bytes:,} bytes; a conversation has at most {MAX_FILE_BYTES:,}")
        content = json.loads(path.read_bytes().decode("utf-8"))
        if not isinstance(content, Mapping) or content.get("format") != CONVERSATION_FORMAT:
            raise ValueError(f"its format is not {CONVERSATION_FORMAT!r}")
        if not isinstance(content["turns"], list) or len(content["turns"]) > MAX_TURNS:
            raise ValueError(f"turns should be a list of at most {MAX_TURNS}")
        conversation = Conversation(
            model,
            seed=content["seed"],
            num_inference_steps=content["num_inference_steps"],
            guidance_scale=content["guidance_scale"],
            **options,
        )
        conversation.turns = tuple(deserialize_turn(turn) for turn in content["turns"])
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from None
    except RecursionError:
        raise ValueError(f"{path} holds no conversation: it is nested too deeply") from None
    except KeyError as key:
        raise ValueError(f"{path} holds no conversation that can be gone on with: {key} is missing") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no conversation that can be gone on with: {error}") from None
    return conversation
