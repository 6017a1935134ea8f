"""Conversation files: one JSON file with the settings and all turns, images and latents included."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dianjing.errors import DianjingError, Message
from dianjing.pipelines.conversation.turn import Turn, deserialize_turn, serialize_turn
from dianjing.pipelines.few_steps import check_slow
from dianjing.pipelines.media.atomic import check_output_path, write_atomic
from dianjing.pipelines.validation import check_guidance_scale, check_num_inference_steps, check_seed

CONVERSATION_FORMAT = "dianjing conversation 1"
MAX_FILE_BYTES = 256 * 2**20
MAX_TURNS = 1000


@dataclass(frozen=True, kw_only=True)
class ConversationState:
    """Content of a conversation file: the settings of a conversation and its turns."""

    seed: int
    num_inference_steps: int | None
    guidance_scale: float | None
    slow: bool | None
    turns: tuple[Turn, ...]


def write_conversation_file(path: Path, state: ConversationState) -> None:
    """Write a conversation as JSON, atomically. Raises: DianjingError for a path that cannot be written."""
    check_output_path(path, extensions=(".json",))
    content = {
        "format": CONVERSATION_FORMAT,
        "seed": state.seed,
        "num_inference_steps": state.num_inference_steps,
        "guidance_scale": state.guidance_scale,
        "slow": state.slow,
        "turns": [serialize_turn(turn) for turn in state.turns],
    }
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    write_atomic(path, lambda file: file.write(text.encode("utf-8")))


def read_conversation_file(path: Path) -> ConversationState:
    """Read a conversation file.

    Raises: DianjingError for a file that is missing, too large, or holds no conversation.
    """
    try:
        num_bytes = path.stat().st_size
        if num_bytes > MAX_FILE_BYTES:
            raise DianjingError("conversation_file_too_large", path=path, num_bytes=num_bytes, max_bytes=MAX_FILE_BYTES)
        data = path.read_bytes()
    except OSError as error:
        raise DianjingError("conversation_file_unreadable", path=path, reason=error.strerror or error) from None
    try:
        return _parse_content(data)
    except (DianjingError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise DianjingError("conversation_file_invalid", path=path, reason=_explain(error)) from None


def _parse_content(data: bytes) -> ConversationState:
    try:
        content = json.loads(data.decode("utf-8"))
    except ValueError:
        raise DianjingError("content_not_json") from None
    if not isinstance(content, Mapping) or content.get("format") != CONVERSATION_FORMAT:
        raise DianjingError("content_wrong_format", expected=CONVERSATION_FORMAT)
    turns, steps, guidance_scale = content["turns"], content["num_inference_steps"], content["guidance_scale"]
    check_slow(content.get("slow"))  # files of older versions have none
    if not isinstance(turns, list) or len(turns) > MAX_TURNS:
        raise DianjingError("content_field_not_list", name="turns", max_length=MAX_TURNS)
    return ConversationState(
        seed=check_seed(content["seed"]),
        num_inference_steps=None if steps is None else check_num_inference_steps(steps),
        guidance_scale=None if guidance_scale is None else check_guidance_scale(guidance_scale),
        slow=content.get("slow"),
        turns=tuple(deserialize_turn(turn) for turn in turns),
    )


def _explain(error: Exception) -> Any:
    """Return the reason why a content was refused, as an argument of a message."""
    if isinstance(error, DianjingError):
        return error
    if isinstance(error, RecursionError):
        return Message("content_nested_too_deeply")
    if isinstance(error, KeyError):
        return Message("content_field_missing", name=error.args[0])
    return Message("content_malformed")
