"""Instruction parser by a chat model that answers in JSON; after two unusable answers the rules parse the text."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from dianjing.errors import DianjingError, Message
from dianjing.pipelines.conversation.edits import (
    AddObject,
    Edit,
    MoveObject,
    NewScene,
    ObjectSpec,
    RecolourObject,
    Regenerate,
    RemoveObject,
    ReplaceObject,
    ResizeObject,
    SetBackground,
    SetObjectCount,
    Undo,
    apply_edit,
)
from dianjing.pipelines.conversation.parsing.base import ParsedInstruction, detect_language
from dianjing.pipelines.conversation.parsing.rule_parser import RuleParser
from dianjing.pipelines.conversation.scene import POSITIONS, RELATIONS, Scene
from dianjing.pipelines.prompting.enhancement import CompleteChat
from dianjing.pipelines.validation import check_int, check_prompt

MAX_NEW_TOKENS = 512
MAX_EDITS = 8
MAX_HINT_CHARS = 1000
SYSTEM_PROMPT = """You edit an image by its description. Given the image and what the user says (in Chinese or \
English), answer with one JSON object and nothing else: {"edits": [...]}, one or more of
{"edit": "new_scene", "objects": [OBJECT, ...], "background": NAME or null, "relation": RELATION or null}
{"edit": "background", "background": NAME}
{"edit": "add", "object": OBJECT, "relation": RELATION or null, "anchor": NAME or null}
{"edit": "remove", "target": NAME}
{"edit": "replace", "target": NAME, "object": OBJECT}
{"edit": "move", "target": NAME, "position": POSITION or null, "relation": RELATION or null, "anchor": NAME or null}
{"edit": "resize", "target": NAME, "direction": "bigger" or "smaller"}
{"edit": "count", "target": NAME, "count": 1 to 4}
{"edit": "colour", "target": NAME, "colour": NAME}
{"edit": "regenerate"}
{"edit": "undo"}
OBJECT is {"name": NAME, "count": 1 to 4, "colour": NAME or null, "size": "big", "small" or null,
"position": POSITION or null}.
Each NAME is an English noun or colour. RELATION is left, right, above or below, seen from the \
other object.
POSITION is one of """ + ", ".join(POSITIONS)


@dataclass(frozen=True)
class ChatModelParser:
    """Instruction parser that asks a chat model by `complete`, with `rule_parser` as the fallback."""

    complete: CompleteChat
    rule_parser: RuleParser

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | PathLike, *, rule_parser: RuleParser, device: str = "cpu"
    ) -> "ChatModelParser":
        """Load a causal language model with a chat template: a local folder or a Hub id, safetensors only.

        Raises: DianjingError for a model that does not load or has no chat template.
        """
        return cls(load_chat_model(name_or_path, device=device), rule_parser)

    def parse(self, text: str, scene: Scene | None) -> ParsedInstruction:
        """Parse a text. Raises: EditError for a text that neither the chat model nor the rules understand."""
        description = "none yet" if scene is None else json.dumps(_describe_scene(scene), ensure_ascii=False)
        messages = [
            {"role": "system", "content": SYSTEM_PROMPT},
            {"role": "user", "content": f"Image: {description}\nUser: {text}"},
        ]
        answer = self.complete(messages)
        try:
            return ParsedInstruction(edits=parse_answer(answer, scene, self.rule_parser))
        except ValueError as error:
            messages += [
                {"role": "assistant", "content": answer},
                {"role": "user", "content": f"That cannot be used: {error}. Answer again, with the JSON object only."},
            ]
        try:
            return ParsedInstruction(edits=parse_answer(self.complete(messages), scene, self.rule_parser))
        except ValueError as error:
            instruction = self.rule_parser.parse(text, scene)
            reason = error if isinstance(error, DianjingError) else str(error)
            hint = Message("chat_model_fallback", reason=reason).render(detect_language(text))
            return replace(instruction, hints=(*instruction.hints, hint[:MAX_HINT_CHARS]))


def load_chat_model(name_or_path: str | PathLike, *, device: str) -> CompleteChat:
    """Load a transformers model and return its chat function, with greedy decoding: the same answer each time.

    Raises: DianjingError for a model that does not load or has no chat template.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
        if tokenizer.chat_template is None:
            raise DianjingError("chat_template_missing", path=name_or_path)
        model = AutoModelForCausalLM.from_pretrained(name_or_path, trust_remote_code=False, use_safetensors=True)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise DianjingError("chat_model_not_loadable", path=name_or_path, reason=reason) from None
    model = model.to(device)

    def complete(messages: Sequence[Mapping[str, str]]) -> str:
        inputs = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, enable_thinking=False, return_dict=True, return_tensors="pt"
        ).to(model.device)
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        return tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return complete


def _describe_scene(scene: Scene) -> dict[str, Any]:
    objects = [
        {"name": each.name, "count": each.count, "colour": each.colour, "position": each.boxes[0].position}
        for each in scene.objects
    ]
    return {"background": scene.background, "objects": objects, "antecedent": scene.objects[scene.antecedent].name}


def parse_answer(answer: str, scene: Scene | None, rule_parser: RuleParser) -> tuple[Edit, ...]:
    """Return the edits of an answer that is one JSON object.

    Raises: ValueError that tells the chat model what is wrong.
    """
    try:
        content = json.loads(answer)
    except (ValueError, RecursionError):
        raise ValueError(f"it is no JSON: {answer[:40]!r}") from None
    items = content.get("edits") if isinstance(content, dict) else None
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_EDITS:
        raise ValueError(f'it should be {{"edits": [...]}} with 1 to {MAX_EDITS} edits')
    edits: list[Edit] = []
    for item in items:
        if not isinstance(item, dict) or str(item.get("edit")) not in _EDIT_PARSERS:
            raise ValueError(f"each edit should be an object whose edit is one of {', '.join(_EDIT_PARSERS)}")
        try:
            edits.append(_EDIT_PARSERS[str(item["edit"])](_EditFields(item, scene, rule_parser)))
        except KeyError as key:
            raise ValueError(f"{key} is missing in {json.dumps(item, ensure_ascii=False)[:80]}") from None
        if not isinstance(edits[-1], Undo):
            scene = apply_edit(scene, edits[-1])
    return tuple(edits)


@dataclass(frozen=True)
class _EditFields:
    """The fields of one edit in an answer, with checks.

    Every method raises ValueError for a wrong value, and KeyError for a missing one.
    """

    values: Mapping[str, Any]
    scene: Scene | None
    rule_parser: RuleParser

    def get_object_index(self, key: str) -> int:
        name = self.normalize_object_name(self.values[key], key)
        if self.scene is None:
            raise ValueError("there is no image yet; the first edit should be new_scene")
        names = [each.name for each in self.scene.objects]
        if name not in names:
            raise ValueError(f"{key} is {name!r}; the image has {', '.join(names)}")
        return names.index(name)

    def get_optional_object_index(self, key: str) -> int | None:
        return None if self.values.get(key) is None else self.get_object_index(key)

    def normalize_object_name(self, value: Any, key: str) -> str:
        """Return the name that the model knows for an object, or the value in lower case."""
        name = check_prompt(value, key).strip().lower()
        known = self.rule_parser.concept_vocabulary.find_object(name)
        return name if known is None else known.names_en[0]

    def normalize_background(self, value: Any) -> str | None:
        if value is None:
            return None
        name = check_prompt(value, "background").strip().lower()
        known = self.rule_parser.concept_vocabulary.find_background(name)
        return name if known is None else known.name_en

    def get_choice(self, key: str, allowed: Sequence[str]) -> str | None:
        value = self.values.get(key)
        if value is not None and value not in allowed:
            raise ValueError(f"{key} is {value!r}; it should be one of {', '.join(allowed)}")
        return value

    def get_required_choice(self, key: str, allowed: Sequence[str]) -> str:
        value = self.get_choice(key, allowed)
        if value is None:
            raise KeyError(key)
        return value

    def parse_object_spec(self, spec_fields: Any) -> ObjectSpec:
        if not isinstance(spec_fields, dict):
            raise ValueError(f"an object is {spec_fields!r}; it should be a JSON object with a name")
        fields = _EditFields(spec_fields, self.scene, self.rule_parser)
        colour = spec_fields.get("colour")
        return ObjectSpec(
            name=self.normalize_object_name(spec_fields["name"], "name"),
            count=check_int(spec_fields.get("count", 1), "count", low=1, high=4),
            colour=None if colour is None else check_prompt(colour, "colour").strip().lower(),
            size=fields.get_choice("size", ("big", "small")),
            position=fields.get_choice("position", POSITIONS),
        )


def _parse_new_scene(edit_fields: _EditFields) -> Edit:
    objects = edit_fields.values["objects"]
    if not isinstance(objects, list):
        raise ValueError("objects should be a list")
    background = edit_fields.normalize_background(edit_fields.values.get("background"))
    relation = edit_fields.get_choice("relation", RELATIONS) if len(objects) == 2 else None
    return NewScene(specs=tuple(map(edit_fields.parse_object_spec, objects)), background=background, relation=relation)


def _parse_background(edit_fields: _EditFields) -> Edit:
    background = edit_fields.normalize_background(edit_fields.values["background"])
    if background is None:
        raise KeyError("background")
    return SetBackground(background=background)


def _parse_add(edit_fields: _EditFields) -> Edit:
    anchor = edit_fields.get_optional_object_index("anchor")
    relation = None if anchor is None else edit_fields.get_choice("relation", RELATIONS)
    return AddObject(spec=edit_fields.parse_object_spec(edit_fields.values["object"]), relation=relation, anchor=anchor)


def _parse_move(edit_fields: _EditFields) -> Edit:
    anchor = edit_fields.get_optional_object_index("anchor")
    position = edit_fields.get_choice("position", POSITIONS)
    relation = edit_fields.get_choice("relation", RELATIONS)
    if position is None and (anchor is None or relation is None):
        raise ValueError("a move needs a position, or a relation and an anchor")
    if position is not None:
        return MoveObject(target=edit_fields.get_object_index("target"), position=position)
    return MoveObject(target=edit_fields.get_object_index("target"), relation=relation, anchor=anchor)


_EDIT_PARSERS: dict[str, Callable[[_EditFields], Edit]] = {
    "new_scene": _parse_new_scene,
    "background": _parse_background,
    "add": _parse_add,
    "remove": lambda fields: RemoveObject(target=fields.get_object_index("target")),
    "replace": lambda fields: ReplaceObject(
        target=fields.get_object_index("target"), spec=fields.parse_object_spec(fields.values["object"])
    ),
    "move": _parse_move,
    "resize": lambda fields: ResizeObject(
        target=fields.get_object_index("target"),
        direction=fields.get_required_choice("direction", ("bigger", "smaller")),
    ),
    "count": lambda fields: SetObjectCount(
        target=fields.get_object_index("target"), count=check_int(fields.values["count"], "count", low=1, high=4)
    ),
    "colour": lambda fields: RecolourObject(
        target=fields.get_object_index("target"), colour=check_prompt(fields.values["colour"], "colour")
    ),
    "regenerate": lambda fields: Regenerate(),
    "undo": lambda fields: Undo(),
}
