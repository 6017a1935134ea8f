"""What agents see of `programs` by MCP: what each argument means, and pictures as pictures."""

import base64
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from gradio.processing_utils import add_root_url

F = TypeVar("F", bound=Callable)
INLINE_IMAGE_TYPES = {".png": "image/png", ".webp": "image/webp"}  # other files are told by their address
ARGUMENT_DESCRIPTIONS = {
    "prompt": "what to draw, in Chinese or English",
    "negative_prompt": "what to leave out",
    "width": "px; of the size the model was trained for where left out",
    "height": "px; as width",
    "num_inference_steps": "more is finer, and slower",
    "guidance_scale": "higher follows the words more closely; 1 switches it off",
    "seed": "a whole number; the same gives the same again",
    "num_images": "how many pictures; each takes the next seed",
    "seconds": "how long the film is",
    "num_frames": "how long the film is, in frames",
    "image": "a PNG, JPEG or WebP in base64",
    "regions": "what moves: clicks on it, and how it moves, such as jump; strength runs from 0 to 1",
    "points": "clicks [x, y] in pixels from the top left corner",
    "labels": "for each point 1 for what is meant, or 0 for what is not",
    "text": "what to draw, or what to change in the last picture, in Chinese or English",
    "conversation": "what the answer before gave as such; left out to begin",
}


def document_arguments(tool: F) -> F:
    """A function whose docstring tells what its arguments mean, in the form that Gradio reads."""
    told = [
        f"{name}: {ARGUMENT_DESCRIPTIONS[name]}"
        for name in inspect.signature(tool).parameters
        if name in ARGUMENT_DESCRIPTIONS
    ]
    tool.__doc__ = "\n".join([inspect.getdoc(tool) or "", "Args:", *told])
    return tool


def serve_files(server: Any, *, server_url: str) -> None:
    """Answer with whole files: Gradio tells of several only in words, and takes settings and labels out of one.

    address: of the server itself, which Gradio would take from what the first agent says.
    """
    server._local_url = server_url
    server.postprocess_output_data = lambda outputs, root_url: [
        content for output in add_root_url(outputs, root_url, None) for content in to_mcp_content(output)
    ]


def to_mcp_content(output: Any) -> list[Any]:
    """What a tool gave as content for agents: each file, and all else as JSON."""
    if _is_file(output):
        return _file_to_mcp_content(output)
    if isinstance(output, list):
        return [content for each in output for content in to_mcp_content(each)]
    from mcp.types import TextContent

    files = {name: value for name, value in output.items() if _is_file(value)}
    said = {name: value for name, value in output.items() if name not in files}
    text = TextContent(type="text", text=json.dumps(said, ensure_ascii=False))
    return [*to_mcp_content(list(files.values())), text]


def _is_file(output: Any) -> bool:
    return isinstance(output, dict) and {"path", "url", "meta"} <= set(output)


def _file_to_mcp_content(file: dict[str, Any]) -> list[Any]:
    from mcp.types import ImageContent, TextContent

    path = Path(file["path"])
    address = TextContent(type="text", text=file["url"])
    if path.suffix not in INLINE_IMAGE_TYPES:
        return [address]
    data = base64.b64encode(path.read_bytes()).decode()
    return [ImageContent(type="image", data=data, mimeType=INLINE_IMAGE_TYPES[path.suffix]), address]
