"""The embedded rewriter: rules over what is said, the same for both languages, without any model."""

from collections.abc import Sequence
from dataclasses import replace

from dianjing.pipelines.conversation.edits import (
    AddObject,
    Edit,
    MoveObject,
    NewScene,
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
    """Something is to be changed that is not there; its message is the name that a model is taught."""


def parse_new_scene(clause: Clause) -> list[Edit]:
    named = [mention for mention in clause.mentions if mention.name is not None]
    if not named:
        return []
    if clause.relation is not None and len(named) == 2:
        named.sort(key=lambda mention: mention.is_anchor)
        named = [replace(mention, position=None) for mention in named]
    elif clause.position is not None:
        named[-1] = replace(named[-1], position=named[-1].position or clause.position)
    wanted = tuple(mention.to_object_spec() for mention in named)
    return [NewScene(specs=wanted, background=clause.background, relation=clause.relation if len(named) == 2 else None)]


def _resolve_mention(mention: ObjectMention | None, scene: Scene) -> int | None:
    """Which thing of the scene is meant."""
    if mention is None:
        return None
    if mention.name is None:
        return scene.antecedent
    same = [index for index, thing in enumerate(scene.objects) if thing.name == mention.name]
    coloured = [index for index in same if scene.objects[index].colour == mention.colour]
    return next(iter(coloured or same), None)


def parse_edits(clause: Clause, scene: Scene) -> list[Edit]:
    """What one clause asks for; rules from the most to the least particular."""
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
    """ "no dog, a cat please": the one goes where the other was."""
    if (
        "remove" not in clause.senses
        or len(clause.target_mentions) != 1
        or (of := _resolve_mention(clause.target_mentions[0], scene)) is None
    ):
        return None
    added = (
        _parse_add(next_clause, scene) if not next_clause.senses & ACTION_SENSES - {"add", "draw", "request"} else []
    )
    if len(added) != 1 or not isinstance(added[0], AddObject) or added[0].spec.position or added[0].relation:
        return None
    return ReplaceObject(target=of, spec=added[0].spec)


def _get_background_color(colour: str) -> str:
    return "light blue" if colour == "blue" else colour


def _parse_replace(clause: Clause, scene: Scene) -> list[Edit]:
    if (
        "prefer" in clause.senses
        and clause.relation == "above"
        and len(clause.target_mentions) == 1
        and clause.anchor is not None
    ):
        old = _resolve_mention(clause.anchor, scene)  # "a dog over the cat"
        return [] if old is None else [ReplaceObject(target=old, spec=clause.target_mentions[0].to_object_spec())]
    named = (
        clause.target_mentions
        if "negation" not in clause.senses
        else [mention for mention in clause.target_mentions if mention.name]
    )
    if len(named) < 2 or not (
        clause.senses & {"replace", "inverse_replace", "negation", "same_position"}
        or _is_copular_replacement(named, clause, scene)
    ):
        return []
    first, second = named[:2]  # of "that is not a cat but a dog" too
    if _resolve_mention(first, scene) is None or (
        _resolve_mention(second, scene) is not None and _is_inverse_replacement(first, second, clause)
    ):
        first, second = second, first
    of = _resolve_mention(first, scene)
    if "negation" in clause.senses and _resolve_mention(second, scene) is not None:
        return []  # "the cat, not the dog"
    if of is None or second.name is None or (first.name is None and _resolve_mention(second, scene) not in (None, of)):
        return []  # "make that three cats" is about the cats
    thing = scene.objects[of]
    if thing.name == second.name and second.count is not None and second.count != thing.count:
        return [SetObjectCount(target=of, count=second.count)]
    if thing.name == second.name and second.colour is None and second.size is not None:
        return [ResizeObject(target=of, direction="bigger" if second.size == "big" else "smaller")]
    kept = None if second.is_new else thing.count
    return [ReplaceObject(target=of, spec=replace(second, count=second.count or kept).to_object_spec())]


def _is_copular_replacement(mentions: Sequence[ObjectMention], clause: Clause, scene: Scene) -> bool:
    """ "the cat should be a dog"."""
    first, second = mentions[:2]
    is_told = (
        not first.is_new
        and second.is_new
        and not clause.senses & (ADD_SENSES | {"request", "remove"})
        and not clause.position
    )
    return (
        is_told
        and _resolve_mention(first, scene) is not None
        and _resolve_mention(second, scene) is None
        and second.name is not None
    )


def _is_inverse_replacement(first: ObjectMention, second: ObjectMention, clause: Clause) -> bool:
    """ "a dog instead of the cat"."""
    return "inverse_replace" in clause.senses and first.is_new and not second.is_new


def _parse_remove(clause: Clause, scene: Scene) -> list[Edit]:
    if not ("remove" in clause.senses or ("take" in clause.senses and "out" in clause.senses)):
        return []
    found = [(mention, _resolve_mention(mention, scene)) for mention in clause.target_mentions] or [
        (ObjectMention(name=None), scene.antecedent)
    ]
    edits: list[Edit] = []
    for mention, of in sorted(found, key=lambda pair: -(pair[1] if pair[1] is not None else -1)):
        if of is None:
            raise ObjectNotFoundError(mention.name)
        count, number = scene.objects[of].count, mention.count
        is_some = number is not None and number < count
        edits.append(
            SetObjectCount(target=of, count=count - number)
            if is_some and number is not None
            else RemoveObject(target=of)
        )
    return edits


def _resolve_target(clause: Clause, scene: Scene) -> int | None:
    """The thing of the scene that a clause is about: the only one it names, or "it"."""
    return _resolve_mention(clause.target_mentions[0], scene) if clause.target_mentions else scene.antecedent


def _parse_resize(clause: Clause, scene: Scene) -> list[Edit]:
    of = _resolve_target(clause, scene)
    place = clause.position or (clause.target_mentions[0].position if clause.target_mentions else None)
    if of is not None and "scale" in clause.senses and place in ("top", "bottom"):
        return [ResizeObject(target=of, direction="bigger" if place == "top" else "smaller")]  # "scale the cat up"
    size = clause.size or (
        clause.target_mentions[0].size if clause.target_mentions and not clause.target_mentions[0].is_new else None
    )
    is_asked = clause.senses & {"bigger", "smaller"}
    if of is None or not (is_asked or (size is not None and not clause.senses & ADD_SENSES)):
        return []
    return [
        ResizeObject(
            target=of,
            direction="bigger" if "bigger" in clause.senses or (not is_asked and size == "big") else "smaller",
        )
    ]


def _parse_recolour(clause: Clause, scene: Scene) -> list[Edit]:
    of = _resolve_target(clause, scene)
    colour = clause.colour or (
        clause.target_mentions[0].colour if clause.target_mentions and clause.senses & {"replace", "recolour"} else None
    )
    if of is None or colour is None or colour == scene.objects[of].colour:
        return []
    return [RecolourObject(target=of, colour=colour)]


def _parse_count(clause: Clause, scene: Scene) -> list[Edit]:
    mention = next(
        (mention for mention in clause.target_mentions if mention.name), next(iter(clause.target_mentions), None)
    )
    of = scene.antecedent if mention is None else _resolve_mention(mention, scene)
    number = clause.count or (mention.count if mention is not None else None)
    if of is None or number is None or clause.position or clause.relation:
        return []
    if clause.senses & {"add", "one_more"} and "total" not in clause.senses:
        return []
    if mention is not None and mention.position:
        return []
    count = scene.objects[of].count
    if number < count and "draw" in clause.senses:
        return []  # "draw a cat" beside two of them
    return [SetObjectCount(target=of, count=number)] if number != count else []


def _parse_add(clause: Clause, scene: Scene) -> list[Edit]:
    anchor = _resolve_mention(clause.anchor, scene)
    edits: list[Edit] = []
    adds = bool(clause.senses & ADD_SENSES)
    if not any(mention.name for mention in clause.target_mentions) and (
        "one_more" in clause.senses or (adds and clause.count is not None)
    ):
        if clause.position is None and clause.relation is None:
            thing = scene.objects[scene.antecedent]
            wanted = ObjectMention(name=thing.name, colour=thing.colour, count=clause.count or 1).to_object_spec()
            edits.append(AddObject(spec=wanted))
        return edits
    named = clause.target_mentions
    if adds and len(named) == 1 and named[0].count is None and clause.count is not None:
        named = [replace(named[0], count=clause.count, is_new=True)]  # "cats: add two"
    for mention in named:
        is_there = _resolve_mention(mention, scene) is not None
        if mention.name is None or (is_there and not (adds and (mention.is_new or "one_more" in clause.senses))):
            continue
        if not (is_there or adds or mention.is_new or "request" in clause.senses) and clause.senses & ACTION_SENSES:
            raise ObjectNotFoundError(mention.name)
        like = _resolve_mention(mention, scene)
        colour = mention.colour if mention.colour is not None or like is None else scene.objects[like].colour
        place = mention.position or (None if clause.relation else clause.position)
        wanted = replace(mention, position=place, colour=colour).to_object_spec()
        edits.append(AddObject(spec=wanted, relation=clause.relation if anchor is not None else None, anchor=anchor))
    return edits


def _parse_move(clause: Clause, scene: Scene) -> list[Edit]:
    of, anchor = _resolve_target(clause, scene), _resolve_mention(clause.anchor, scene)
    place = clause.position or (clause.target_mentions[0].position if clause.target_mentions else None)
    if of is None or of == anchor or (place is None and (clause.relation is None or anchor is None)):
        return []
    relation = None if anchor is None else clause.relation
    return [MoveObject(target=of, position=None if relation else place, relation=relation, anchor=anchor)]
