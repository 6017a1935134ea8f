"""The OpenAPI documentation as one plain HTML page; it loads nothing else."""

import html
import json
from typing import Any

PAGE_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
pre {{ overflow-x: auto; padding: .75rem; border: 1px solid #8884; border-radius: .5rem; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; }}
h2 {{ margin-top: 2.5rem; }} code {{ font-size: .9em; }}
</style></head><body>
<h1>{title}</h1><p>{description}</p><p>As JSON: <a href="openapi.json">openapi.json</a></p>
{operations}</body></html>
"""


def render_docs_page(schema: dict[str, Any]) -> str:
    """Render all operations of an OpenAPI schema as HTML."""
    parts = [
        _render_operation(method, path, operation, schema)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    info = schema["info"]
    return PAGE_TEMPLATE.format(
        title=html.escape(info["title"]), description=html.escape(info["description"]), operations="\n".join(parts)
    )


def _render_operation(method: str, path: str, operation: dict[str, Any], schema: dict[str, Any]) -> str:
    parts = [f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>"]
    parts.append(f"<p>{html.escape(operation.get('description', ''))}</p>")
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        body = _resolve_ref(content["schema"], schema)
        parts.append(f"<p>{html.escape(kind)}: {html.escape(body.get('description', ''))}</p>{_render_fields(body)}")
        for example in body.get("examples", []):
            text = json.dumps(example, ensure_ascii=False, indent=2)
            parts.append(f"<pre>{html.escape(text)}</pre>")
    statuses = ", ".join(str(status) for status in operation["responses"])
    parts.append(f"<p>Responses: {html.escape(statuses)}</p>")
    return "\n".join(parts)


def _render_fields(body: dict[str, Any]) -> str:
    rows = []
    for name, field in body.get("properties", {}).items():
        types = [option["type"] for option in (field, *field.get("anyOf", [])) if "type" in option]
        kind = " or ".join(str(name) for name in types if name != "null")
        bounds = "".join(f", {word} {field[word]}" for word in ("minimum", "maximum") if word in field)
        description = html.escape(field.get("description", ""))
        cells = (f"<code>{html.escape(name)}</code>", html.escape(kind + bounds), description)
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _resolve_ref(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in part:
        return part
    return schema["components"]["schemas"][part["$ref"].rsplit("/", 1)[-1]]
