"""Any chat model as rewriter: it answers in JSON, is told once what was wrong, and then the rules take over."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from dianjing.pipelines.conversation import edits as e
from dianjing.pipelines.conversation.reading import language_of
from dianjing.pipelines.conversation.refusals import RULES_INSTEAD
from dianjing.pipelines.conversation.rewriting import Understood
from dianjing.pipelines.conversation.rules import Rules
from dianjing.pipelines.conversation.scenes import PLACES, SIDES, Scene
from dianjing.pipelines.request import check_prompt, check_whole

Complete = Callable[[Sequence[Mapping[str, str]]], str]  # chat messages to the answer
MAX_NEW_TOKENS = 512
MAX_EDITS = 8
INSTRUCTIONS = """You edit a picture by its description. Given the picture and what the user says (in Chinese or \
English), answer with one JSON object and nothing else: {"edits": [...]}, one or more of
{"edit": "draw", "objects": [OBJECT, ...], "background": NAME or null, "relation": SIDE or null}  (a new picture)
{"edit": "background", "background": NAME}
{"edit": "add", "object": OBJECT, "relation": SIDE or null, "of": NAME or null}
{"edit": "remove", "of": NAME}
{"edit": "replace", "of": NAME, "object": OBJECT}
{"edit": "move", "of": NAME, "place": PLACE or null, "relation": SIDE or null, "beside": NAME or null}
{"edit": "resize", "of": NAME, "to": "bigger" or "smaller"}
{"edit": "count", "of": NAME, "count": 1 to 4}
{"edit": "colour", "of": NAME, "colour": NAME}
{"edit": "redraw"}
{"edit": "undo"}
OBJECT is {"name": NAME, "count": 1 to 4, "colour": NAME or null, "size": "big", "small" or null,
"place": PLACE or null}.
Each NAME is an English noun or colour. SIDE is left, right, above or below: where it is, seen from the other object.
PLACE is one of """ + ", ".join(PLACES)


@dataclass(frozen=True)
class ChatModel:
    """Asks `complete`; `Rewriter`."""

    complete: Complete
    rules: Rules

    @classmethod
    def from_pretrained(cls, name_or_path: str | PathLike, *, rules: Rules, device: str = "cpu") -> "ChatModel":
        """A causal language model with a chat template: a local folder or a Hub id, safetensors only.

        Raises: ValueError for a tokenizer without a chat template.
        """
        return cls(load_chat(name_or_path, device=device), rules)

    def rewrite(self, text: str, scene: Scene | None) -> Understood:
        """Raises: NotPossibleError for what cannot be drawn."""
        shown = "none yet" if scene is None else json.dumps(_shown(scene), ensure_ascii=False)
        messages = [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": f"Picture: {shown}\nUser: {text}"},
        ]
        answer = self.complete(messages)
        try:
            return Understood(edits=read_answer(answer, scene, self.rules))
        except ValueError as error:
            messages += [
                {"role": "assistant", "content": answer},
                {"role": "user", "content": f"That cannot be used: {error}. Answer again, with the JSON object only."},
            ]
        try:
            return Understood(edits=read_answer(self.complete(messages), scene, self.rules))
        except ValueError as error:
            understood = self.rules.rewrite(text, scene)
            hint = RULES_INSTEAD.say(language_of(text), reason=error)
            return replace(understood, hints=(*understood.hints, hint[:1000]))


def load_chat(name_or_path: str | PathLike, *, device: str) -> Complete:
    """What answers chat messages with a transformers model; the most likely words, so the same each time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
        if tokenizer.chat_template is None:
            raise ValueError(f"{name_or_path} has no chat template; give a model that was trained to chat")
        model = AutoModelForCausalLM.from_pretrained(name_or_path, trust_remote_code=False, use_safetensors=True)
    except OSError as error:
        raise ValueError(f"{name_or_path} cannot be loaded as a chat model: {str(error).splitlines()[0]}") from None
    model = model.to(device)

    def complete(messages: Sequence[Mapping[str, str]]) -> str:
        inputs = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, enable_thinking=False, return_dict=True, return_tensors="pt"
        ).to(model.device)
        with torch.no_grad():
            tokens = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        return tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return complete


def _shown(scene: Scene) -> dict[str, Any]:
    objects = [{"name": t.name, "count": t.count, "colour": t.colour, "place": t.boxes[0].place} for t in scene.things]
    return {"background": scene.background, "objects": objects, "it": scene.things[scene.focus].name}


def read_answer(answer: str, scene: Scene | None, rules: Rules) -> tuple[e.Edit, ...]:
    """The edits of an answer that is one JSON object.

    Raises: ValueError that says what is wrong with it.
    """
    try:
        given = json.loads(answer)
    except (ValueError, RecursionError):
        raise ValueError(f"it is no JSON: {answer[:40]!r}") from None
    listed = given.get("edits") if isinstance(given, dict) else None
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_EDITS:
        raise ValueError(f'it should be {{"edits": [...]}} with 1 to {MAX_EDITS} edits')
    edits: list[e.Edit] = []
    for each in listed:
        if not isinstance(each, dict) or str(each.get("edit")) not in _READ:
            raise ValueError(f"each edit should be an object whose edit is one of {', '.join(_READ)}")
        try:
            edits.append(_READ[str(each["edit"])](_Given(each, scene, rules)))
        except KeyError as key:
            raise ValueError(f"{key} is missing in {json.dumps(each, ensure_ascii=False)[:80]}") from None
        if not isinstance(edits[-1], e.Undo):
            scene = e.apply(scene, edits[-1])
    return tuple(edits)


@dataclass(frozen=True)
class _Given:
    """One edit of the answer, read field by field."""

    fields: Mapping[str, Any]
    scene: Scene | None
    rules: Rules

    def of(self, key: str) -> int:
        name = self.name(self.fields[key], key)
        if self.scene is None:
            raise ValueError("there is no picture yet; the first edit should be draw")
        found = [index for index, thing in enumerate(self.scene.things) if thing.name == name]
        if not found:
            raise ValueError(f"{key} is {name!r}; the picture has {', '.join(t.name for t in self.scene.things)}")
        return found[0]

    def of_or_none(self, key: str) -> int | None:
        return None if self.fields.get(key) is None else self.of(key)

    def name(self, value: Any, key: str) -> str:
        """A name as the model knows it, or as it is."""
        said = check_prompt(value, key).strip().lower()
        known = self.rules.names.find_object(said)
        return said if known is None else known.names_en[0]

    def background(self, value: Any) -> str | None:
        if value is None:
            return None
        said = check_prompt(value, "background").strip().lower()
        known = self.rules.names.find_background(said)
        return said if known is None else known.name_en

    def one_of(self, key: str, allowed: Sequence[str]) -> str | None:
        value = self.fields.get(key)
        if value is not None and value not in allowed:
            raise ValueError(f"{key} is {value!r}; it should be one of {', '.join(allowed)}")
        return value

    def needed(self, key: str, allowed: Sequence[str]) -> str:
        value = self.one_of(key, allowed)
        if value is None:
            raise KeyError(key)
        return value

    def wanted(self, given: Any) -> e.Wanted:
        if not isinstance(given, dict):
            raise ValueError(f"an object is {given!r}; it should be a JSON object with a name")
        one = _Given(given, self.scene, self.rules)
        colour = given.get("colour")
        return e.Wanted(
            name=self.name(given["name"], "name"),
            count=check_whole(given.get("count", 1), "count", low=1, high=4),
            colour=None if colour is None else check_prompt(colour, "colour").strip().lower(),
            size=one.one_of("size", ("big", "small")),
            place=one.one_of("place", PLACES),
        )


def _read_draw(given: _Given) -> e.Edit:
    objects = given.fields["objects"]
    if not isinstance(objects, list):
        raise ValueError("objects should be a list")
    background = given.background(given.fields.get("background"))
    relation = given.one_of("relation", SIDES) if len(objects) == 2 else None
    return e.Draw(wanted=tuple(map(given.wanted, objects)), background=background, relation=relation)


def _read_background(given: _Given) -> e.Edit:
    background = given.background(given.fields["background"])
    if background is None:
        raise KeyError("background")
    return e.SetBackground(background=background)


def _read_add(given: _Given) -> e.Edit:
    anchor = given.of_or_none("of")
    relation = None if anchor is None else given.one_of("relation", SIDES)
    return e.Add(wanted=given.wanted(given.fields["object"]), relation=relation, anchor=anchor)


def _read_move(given: _Given) -> e.Edit:
    anchor, place, relation = given.of_or_none("beside"), given.one_of("place", PLACES), given.one_of("relation", SIDES)
    if place is None and (anchor is None or relation is None):
        raise ValueError("a move needs a place, or a relation and beside")
    if place is not None:
        return e.Move(of=given.of("of"), place=place)
    return e.Move(of=given.of("of"), relation=relation, anchor=anchor)


_READ: dict[str, Callable[[_Given], e.Edit]] = {
    "draw": _read_draw,
    "background": _read_background,
    "add": _read_add,
    "remove": lambda given: e.Remove(of=given.of("of")),
    "replace": lambda given: e.Replace(of=given.of("of"), wanted=given.wanted(given.fields["object"])),
    "move": _read_move,
    "resize": lambda given: e.Resize(of=given.of("of"), to=given.needed("to", ("bigger", "smaller"))),
    "count": lambda given: e.SetCount(
        of=given.of("of"), count=check_whole(given.fields["count"], "count", low=1, high=4)
    ),
    "colour": lambda given: e.Recolour(of=given.of("of"), colour=check_prompt(given.fields["colour"], "colour")),
    "redraw": lambda given: e.Redraw(),
    "undo": lambda given: e.Undo(),
}
