"""Rules that turn the clauses of a text into edits, the same for Chinese and English."""

from collections.abc import Sequence
from dataclasses import replace

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
)
from dianjing.pipelines.conversation.parsing.clauses import Clause, ObjectMention
from dianjing.pipelines.conversation.scene import Scene

ADD_SENSES = {"add", "draw", "one_more"}
ACTION_SENSES = {
    "undo",
    "redraw",
    "new",
    "add",
    "draw",
    "request",
    "one_more",
    "remove",
    "replace",
    "inverse_replace",
    "move",
    "bigger",
    "smaller",
    "recolour",
}


class ObjectNotFoundError(Exception):
    """A clause names an object that the scene does not have; the message is the object's English name."""


def parse_new_scene(clause: Clause) -> list[Edit]:
    """Return the `NewScene` that a text describes, or nothing if it names no object."""
    named = [mention for mention in clause.mentions if mention.name is not None]
    if not named:
        return []
    if clause.relation is not None and len(named) == 2:
        named.sort(key=lambda mention: mention.is_anchor)
        named = [replace(mention, position=None) for mention in named]
    elif clause.position is not None:
        named[-1] = replace(named[-1], position=named[-1].position or clause.position)
    specs = tuple(mention.to_object_spec() for mention in named)
    relation = clause.relation if len(named) == 2 else None
    return [NewScene(specs=specs, background=clause.background, relation=relation)]


def _resolve_mention(mention: ObjectMention | None, scene: Scene) -> int | None:
    """Return the index of the object that is meant, None for one that the scene does not have."""
    if mention is None:
        return None
    if mention.name is None:
        return scene.antecedent
    same = [index for index, each in enumerate(scene.objects) if each.name == mention.name]
    coloured = [index for index in same if scene.objects[index].colour == mention.colour]
    return next(iter(coloured or same), None)


def parse_edits(clause: Clause, scene: Scene) -> list[Edit]:
    """Return the edits that one clause asks for: those of the first rule that matches, most specific rule first."""
    if "undo" in clause.senses:
        return [Undo()]
    if (
        "redraw" in clause.senses
        and not any(mention.name for mention in clause.target_mentions)
        and clause.background is None
    ):
        return [Regenerate()]
    background: list[Edit] = []
    if clause.background is None and "background" in clause.senses and clause.colour is not None:
        clause.background, clause.colour = f"{_get_background_color(clause.colour)} background", None
    if clause.background is not None and clause.background != scene.background:
        background = [SetBackground(background=clause.background)]
    for rule in (_parse_replace, _parse_remove, _parse_resize, _parse_recolour, _parse_count, _parse_add, _parse_move):
        if edits := rule(clause, scene):
            return background + edits
    return background


def parse_split_replacement(clause: Clause, next_clause: Clause, scene: Scene) -> Edit | None:
    """Return the replacement that two clauses express together, such as "no dog, a cat please"; else None."""
    if "remove" not in clause.senses or len(clause.target_mentions) != 1:
        return None
    target = _resolve_mention(clause.target_mentions[0], scene)
    if target is None or next_clause.senses & ACTION_SENSES - {"add", "draw", "request"}:
        return None
    added = _parse_add(next_clause, scene)
    if len(added) != 1 or not isinstance(added[0], AddObject) or added[0].spec.position or added[0].relation:
        return None
    return ReplaceObject(target=target, spec=added[0].spec)


def _get_background_color(colour: str) -> str:
    return "light blue" if colour == "blue" else colour


def _parse_replace(clause: Clause, scene: Scene) -> list[Edit]:
    if (
        "prefer" in clause.senses
        and clause.relation == "above"
        and len(clause.target_mentions) == 1
        and clause.anchor is not None
    ):
        target = _resolve_mention(clause.anchor, scene)  # "a dog over the cat"
        return [] if target is None else [ReplaceObject(target=target, spec=clause.target_mentions[0].to_object_spec())]
    named = clause.target_mentions
    if "negation" in clause.senses:
        named = [mention for mention in named if mention.name]
    if len(named) < 2 or not (
        clause.senses & {"replace", "inverse_replace", "negation", "same_position"}
        or _is_copular_replacement(named, clause, scene)
    ):
        return []
    first, second = named[:2]  # also of "that is not a cat but a dog"
    if _resolve_mention(first, scene) is None or (
        _resolve_mention(second, scene) is not None and _is_inverse_replacement(first, second, clause)
    ):
        first, second = second, first
    target = _resolve_mention(first, scene)
    if "negation" in clause.senses and _resolve_mention(second, scene) is not None:
        return []  # "the cat, not the dog"
    if target is None or second.name is None:
        return []
    if first.name is None and _resolve_mention(second, scene) not in (None, target):
        return []  # "make that three cats" is about the cats
    scene_object = scene.objects[target]
    is_same = scene_object.name == second.name
    if is_same and second.count is not None and second.count != scene_object.count:
        return [SetObjectCount(target=target, count=second.count)]
    if is_same and second.colour is None and second.size is not None:
        return [ResizeObject(target=target, direction="bigger" if second.size == "big" else "smaller")]
    count = second.count or (None if second.is_new else scene_object.count)
    return [ReplaceObject(target=target, spec=replace(second, count=count).to_object_spec())]


def _is_copular_replacement(mentions: Sequence[ObjectMention], clause: Clause, scene: Scene) -> bool:
    """Return True for "the cat should be a dog": an object of the scene, then a new one, and no other action."""
    first, second = mentions[:2]
    return (
        not first.is_new
        and second.is_new
        and not clause.senses & (ADD_SENSES | {"request", "remove"})
        and not clause.position
        and _resolve_mention(first, scene) is not None
        and _resolve_mention(second, scene) is None
        and second.name is not None
    )


def _is_inverse_replacement(first: ObjectMention, second: ObjectMention, clause: Clause) -> bool:
    """Return True for "a dog instead of the cat": the new object comes first."""
    return "inverse_replace" in clause.senses and first.is_new and not second.is_new


def _parse_remove(clause: Clause, scene: Scene) -> list[Edit]:
    if not ("remove" in clause.senses or ("take" in clause.senses and "out" in clause.senses)):
        return []
    mentions = clause.target_mentions or [ObjectMention(name=None)]
    resolved = [(mention, _resolve_mention(mention, scene)) for mention in mentions]
    edits: list[Edit] = []
    # the last index first: a removal moves the indices after it
    for mention, target in sorted(resolved, key=lambda pair: -(pair[1] if pair[1] is not None else -1)):
        if target is None:
            raise ObjectNotFoundError(mention.name)
        count = scene.objects[target].count
        if mention.count is not None and mention.count < count:
            edits.append(SetObjectCount(target=target, count=count - mention.count))
        else:
            edits.append(RemoveObject(target=target))
    return edits


def _resolve_target(clause: Clause, scene: Scene) -> int | None:
    """Return the object that a clause is about: the first that it names, or the antecedent of "it"."""
    return _resolve_mention(clause.target_mentions[0], scene) if clause.target_mentions else scene.antecedent


def _get_position(clause: Clause) -> str | None:
    return clause.position or (clause.target_mentions[0].position if clause.target_mentions else None)


def _parse_resize(clause: Clause, scene: Scene) -> list[Edit]:
    target = _resolve_target(clause, scene)
    if target is None:
        return []
    position = _get_position(clause)
    if "scale" in clause.senses and position in ("top", "bottom"):
        return [ResizeObject(target=target, direction="bigger" if position == "top" else "smaller")]  # "scale it up"
    if clause.senses & {"bigger", "smaller"}:
        return [ResizeObject(target=target, direction="bigger" if "bigger" in clause.senses else "smaller")]
    size = clause.size
    if size is None and clause.target_mentions and not clause.target_mentions[0].is_new:
        size = clause.target_mentions[0].size
    if size is None or clause.senses & ADD_SENSES:
        return []
    return [ResizeObject(target=target, direction="bigger" if size == "big" else "smaller")]


def _parse_recolour(clause: Clause, scene: Scene) -> list[Edit]:
    target, colour = _resolve_target(clause, scene), clause.colour
    if colour is None and clause.target_mentions and clause.senses & {"replace", "recolour"}:
        colour = clause.target_mentions[0].colour
    if target is None or colour is None or colour == scene.objects[target].colour:
        return []
    return [RecolourObject(target=target, colour=colour)]


def _parse_count(clause: Clause, scene: Scene) -> list[Edit]:
    mention = next(
        (mention for mention in clause.target_mentions if mention.name), next(iter(clause.target_mentions), None)
    )
    target = scene.antecedent if mention is None else _resolve_mention(mention, scene)
    count = clause.count or (mention.count if mention is not None else None)
    if target is None or count is None or clause.position or clause.relation:
        return []
    if clause.senses & {"add", "one_more"} and "total" not in clause.senses:
        return []
    if mention is not None and mention.position:
        return []
    present = scene.objects[target].count
    if count < present and "draw" in clause.senses:
        return []  # "draw a cat" when there are two: one more
    return [SetObjectCount(target=target, count=count)] if count != present else []


def _parse_add(clause: Clause, scene: Scene) -> list[Edit]:
    anchor = _resolve_mention(clause.anchor, scene)
    edits: list[Edit] = []
    has_add = bool(clause.senses & ADD_SENSES)
    if not any(mention.name for mention in clause.target_mentions) and (
        "one_more" in clause.senses or (has_add and clause.count is not None)
    ):
        if clause.position is None and clause.relation is None:
            antecedent = scene.objects[scene.antecedent]
            spec = ObjectSpec(name=antecedent.name, colour=antecedent.colour, count=clause.count or 1)
            edits.append(AddObject(spec=spec))
        return edits
    named = clause.target_mentions
    if has_add and len(named) == 1 and named[0].count is None and clause.count is not None:
        named = [replace(named[0], count=clause.count, is_new=True)]  # "cats: add two"
    for mention in named:
        present = _resolve_mention(mention, scene)
        is_another = has_add and (mention.is_new or "one_more" in clause.senses)
        if mention.name is None or (present is not None and not is_another):
            continue
        is_requested = has_add or mention.is_new or "request" in clause.senses
        if present is None and not is_requested and clause.senses & ACTION_SENSES:
            raise ObjectNotFoundError(mention.name)
        colour = mention.colour if mention.colour is not None or present is None else scene.objects[present].colour
        position = mention.position or (None if clause.relation else clause.position)
        spec = replace(mention, position=position, colour=colour).to_object_spec()
        edits.append(AddObject(spec=spec, relation=clause.relation if anchor is not None else None, anchor=anchor))
    return edits


def _parse_move(clause: Clause, scene: Scene) -> list[Edit]:
    target, anchor = _resolve_target(clause, scene), _resolve_mention(clause.anchor, scene)
    position = _get_position(clause)
    if target is None or target == anchor or (position is None and (clause.relation is None or anchor is None)):
        return []
    relation = None if anchor is None else clause.relation
    return [MoveObject(target=target, position=None if relation else position, relation=relation, anchor=anchor)]
