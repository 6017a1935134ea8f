"""MCP: the page's endpoints as tools for agents, with a description of each argument and files as content."""

import base64
import json
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.mcp import GradioMCPServer
from gradio.processing_utils import add_root_url
from mcp.types import ImageContent, TextContent

INLINE_IMAGE_TYPES = {".png": "image/png", ".webp": "image/webp"}  # other files are given by their URL


class FileMCPServer(GradioMCPServer):
    """Gradio's MCP server, except that files are returned unchanged: image content keeps its metadata and label.

    `server_url` is the server's own address; Gradio would take it from the first request.
    """

    def __init__(self, blocks: gr.Blocks, *, server_url: str):
        super().__init__(blocks)
        self.server_url = server_url

    @property
    def local_url(self) -> str:
        return self.server_url

    def postprocess_output_data(self, data: Any, root_url: str) -> list[TextContent | ImageContent]:
        """Turn the outputs of an endpoint into MCP content."""
        outputs = add_root_url(data, root_url, None)
        return [content for output in outputs for content in to_mcp_content(output)]


def to_mcp_content(output: Any) -> list[TextContent | ImageContent]:
    """Turn one output into content: each file by itself, everything else as JSON."""
    if _is_file(output):
        return _file_to_mcp_content(output)
    if isinstance(output, list):
        return [content for item in output for content in to_mcp_content(item)]
    files = {name: value for name, value in output.items() if _is_file(value)}
    values = {name: value for name, value in output.items() if name not in files}
    text = TextContent(type="text", text=json.dumps(values, ensure_ascii=False))
    return [*to_mcp_content(list(files.values())), text]


def _is_file(output: Any) -> bool:
    return isinstance(output, dict) and {"path", "url", "meta"} <= set(output)


def _file_to_mcp_content(file: dict[str, Any]) -> list[TextContent | ImageContent]:
    path, url = Path(file["path"]), TextContent(type="text", text=file["url"])
    if path.suffix not in INLINE_IMAGE_TYPES:
        return [url]
    data = base64.b64encode(path.read_bytes()).decode()
    return [ImageContent(type="image", data=data, mimeType=INLINE_IMAGE_TYPES[path.suffix]), url]
