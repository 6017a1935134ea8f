"""Markdown of the reference pages, made from the code: command line, run file, HTTP."""

import inspect
import io
import json
import re
import tokenize
from ast import AnnAssign, ClassDef, Name, parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

LARGEST = 2**53  # JSON holds no larger integer exactly


def escape_cell(text: object) -> str:
    """A text as one cell of a Markdown table."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").strip()


def escape_html(text: object) -> str:
    """A text in which Markdown shows brackets and angle brackets as they are."""
    return re.sub(r"([<>\[\]*_])", r"\\\1", str(text))


def make_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(escape_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def render_cli() -> str:
    """Every command of `dianjing` with its arguments and options."""
    from typer.main import get_command

    from dianjing.cli.app import app

    group: Any = get_command(app)
    return "\n".join(_render_command(name, command) for name, command in group.commands.items())


def _render_command(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join(["dianjing", name, *command.collect_usage_pieces(context)])
    parts = [f"## dianjing {name}\n", inspect.cleandoc(command.help or "") + "\n", f"```text\n{usage}\n```\n"]
    records = [(each.param_type_name, each.get_help_record(context)) for each in command.params]
    for kind in ("argument", "option"):
        rows = [
            (f"`{record[0]}`", escape_html(record[1]))
            for each, record in records
            if each == kind and record is not None
        ]
        if rows:
            parts.append(make_table([kind, "meaning"], rows))
    return "\n".join(parts)


def render_run_file() -> str:
    """Every section and key of a run file, task by task; a section that two tasks share stands once."""
    from dianjing.train.config.run_file import RUN_CONFIGS, DatasetsFileConfig

    parts, rendered = [], dict[type[BaseModel], str]()
    for task, config in RUN_CONFIGS.items():
        parts.append(f'## task = "{task}" {{#task-{task.replace("_", "-")}}}\n')
        parts += _render_sections(config, "", rendered, task=task)
    parts.append("## The data set file {#datasets}\n")
    parts += _render_sections(DatasetsFileConfig, "", rendered, task="the data set file")
    return "\n".join(parts)


def _render_sections(
    config: type[BaseModel], prefix: str, rendered: dict[type[BaseModel], str], *, task: str
) -> Iterator[str]:
    for name, field in config.model_fields.items():
        section = find_model(field.annotation)
        if section is None:
            continue
        path = f"{prefix}{name}"
        is_list = field.annotation is not section
        yield f"### {'[[' if is_list else '['}{path}{']]' if is_list else ']'} {{#{make_anchor(task, path)}}}\n"
        if section in rendered:
            yield f"The same keys as [in the section above](#{rendered[section]}).\n"
            continue
        rendered[section] = make_anchor(task, path)
        comments = read_field_comments(section)
        rows = [
            (f"`{key}`", f"`{format_type(each)}`", format_default(each), each.description or comments.get(key, ""))
            for key, each in section.model_fields.items()
            if find_model(each.annotation) is None
        ]
        if rows:
            yield make_table(["key", "type", "default", "meaning"], rows)
        yield from _render_sections(section, f"{path}.", rendered, task=task)


def make_anchor(task: str, path: str) -> str:
    """The id of a section of the run file page."""
    return re.sub(r"[^a-z0-9]+", "-", f"{task}-{path}".lower())


def find_model(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model in an annotation such as `Model`, `Model | None` or `tuple[Model, ...]`, else None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := find_model(each)) is not None), None)


def format_type(field: Any) -> str:
    """The type of a field, with its bounds, as a reader of TOML understands it."""
    text = format_annotation(field.annotation)
    bounds = [
        f"{sign} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
        if getattr(rule, name, None) is not None
    ]
    return ", ".join([text, *bounds])


def format_annotation(annotation: Any) -> str:
    """An annotation in plain words: string, integer, number, list of ..., or the allowed values."""
    names = {"str": "string", "int": "integer", "float": "number", "bool": "true or false", "Path": "path"}
    arguments = get_args(annotation)
    if not arguments:
        name = getattr(annotation, "__name__", str(annotation))
        return names.get(name, name)
    origin = getattr(annotation, "__origin__", None)
    if str(origin) == "typing.Literal":
        return " or ".join(json.dumps(value) for value in arguments)
    if hasattr(annotation, "__metadata__"):
        return format_annotation(arguments[0])
    if origin in (tuple, list):
        kinds = list(dict.fromkeys(format_annotation(each) for each in arguments if each is not Ellipsis))
        return f"list of {' or '.join(kinds)}"
    if origin is dict:
        return f"table of {format_annotation(arguments[1])}"
    return " or ".join(format_annotation(each) for each in arguments if each is not type(None))


def format_default(field: Any) -> str:
    """The default of a field as TOML writes it; "required" where there is none."""
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return ""
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    value = str(value) if isinstance(value, Path) else value
    return f"`{json.dumps(value, ensure_ascii=False, default=str)}`"


def read_field_comments(model: type[BaseModel]) -> dict[str, str]:
    """Comments at the fields of a model, inherited fields among them: field name -> text."""
    comments: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if issubclass(cls, BaseModel) and cls is not BaseModel:
            comments |= _read_comments_of_class(cls)
    return comments


def _read_comments_of_class(cls: type[BaseModel]) -> dict[str, str]:
    source = inspect.cleandoc("\n" + inspect.getsource(cls))
    body = parse(source).body[0]
    assert isinstance(body, ClassDef)
    by_line: dict[int, tuple[str, bool]] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            by_line[token.start[0]] = (token.string.lstrip("# "), not token.line[: token.start[1]].strip())
    comments = {}
    for node in body.body:
        if not (isinstance(node, AnnAssign) and isinstance(node.target, Name)):
            continue
        lines = [by_line[n][0] for n in range(node.lineno, (node.end_lineno or node.lineno) + 1) if n in by_line]
        above = node.lineno - 1
        while above in by_line and by_line[above][1]:
            lines.insert(0, by_line[above][0])
            above -= 1
        comments[node.target.id] = " ".join(lines)
    return comments


def render_http() -> str:
    """Every operation of the HTTP API with its parameters, fields, examples and status codes."""
    from dianjing.demo.api.app import make_api
    from dianjing.demo.api.auth import AccessControl
    from dianjing.demo.limits import ServerLimits

    engine = SimpleNamespace(capabilities=SimpleNamespace(model="sticker", video_models=()))
    queue: Any = SimpleNamespace(limits=ServerLimits(), engine=engine)  # all that the schema depends on
    schema = make_api(queue, AccessControl()).openapi()
    return "\n".join(
        _render_operation(method.upper(), path, operation, schema)
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    )


def _render_operation(method: str, path: str, operation: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    parts = [f"## {method} {path}\n", operation.get("description", "") + "\n"]
    parameters = operation.get("parameters", [])
    if parameters:
        rows = [(f"`{p['name']}`", p["in"], _format_schema(p["schema"]), p.get("description", "")) for p in parameters]
        parts.append(make_table(["parameter", "in", "type", "meaning"], rows))
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        body = _resolve(content["schema"], schema)
        parts.append(f"Body, `{media_type}`: {body.get('description', '')}\n")
        parts.append(_render_fields(body, schema))
        for example in body.get("examples", []):
            parts.append(f"```json\n{json.dumps(_shorten(example), ensure_ascii=False, indent=2)}\n```\n")
    rows = [
        (status, ", ".join(f"`{each}`" for each in response.get("content", {})), response.get("description", ""))
        for status, response in operation["responses"].items()
    ]
    parts.append(make_table(["status", "answer", "meaning"], rows))
    return "\n".join(parts)


def _render_fields(body: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    rows = []
    for name, field in body.get("properties", {}).items():
        needed = "required" if name in body.get("required", []) else ""
        default = "" if field.get("default") is None else f"`{json.dumps(field['default'], ensure_ascii=False)}`"
        rows.append((f"`{name}`", _format_schema(field), needed or default, _describe(field)))
        item = _resolve(field.get("items", {}), schema)
        for inner, each in item.get("properties", {}).items():
            rows.append((f"`{name}[].{inner}`", _format_schema(each), "", _describe(each)))
    return make_table(["field", "type", "default", "meaning"], rows)


def _describe(field: Mapping[str, Any]) -> str:
    return next((each["description"] for each in (field, *field.get("anyOf", [])) if "description" in each), "")


def _format_schema(field: Mapping[str, Any]) -> str:
    kinds = [each for each in (field, *field.get("anyOf", [])) if each.get("type", "null") != "null"]
    text = " or ".join(dict.fromkeys(str(each["type"]) for each in kinds))
    values = [value for each in (field, *kinds) for value in each.get("enum", [])]
    words = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "above", "maxItems": "items at most"}
    bounds = [f"{words[key]} {int(field[key])}" for key in words if abs(field.get(key, LARGEST)) < LARGEST]
    return ", ".join([" or ".join(json.dumps(value) for value in dict.fromkeys(values)) or text, *bounds])


def _resolve(part: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return schema["components"]["schemas"][part["$ref"].rsplit("/", 1)[-1]] if "$ref" in part else part


def _shorten(value: Any) -> Any:
    """An example whose long texts (files in base64) are cut."""
    if isinstance(value, dict):
        return {key: _shorten(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_shorten(each) for each in value]
    return f"{value[:24]}..." if isinstance(value, str) and len(value) > 120 else value


def render_messages() -> str:
    """Every message for users: its id and its English and Chinese text with the example's arguments."""
    from dianjing.errors import Message, get_messages

    rows = []
    for message_id, entry in sorted(get_messages().items()):
        message = Message(message_id, **entry.get("example", {}))
        rows.append((f"`{message_id}`", message.render("en"), message.render("zh")))
    return make_table(["message id", "English", "Chinese"], rows)


RENDERERS: dict[str, Callable[[], str]] = {
    "cli": render_cli,
    "http": render_http,
    "messages": render_messages,
    "run-file": render_run_file,
}
