"""The embedded rewriter: rules over what is said, the same for both languages, without any model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from dianjing.pipelines.conversation.clauses import Clause, Mention, gather
from dianjing.pipelines.conversation.edits import (
    Add,
    Draw,
    Edit,
    Move,
    Recolour,
    Redraw,
    Remove,
    Replace,
    Resize,
    SetBackground,
    SetCount,
    Undo,
    apply,
)
from dianjing.pipelines.conversation.reading import Reader, language_of
from dianjing.pipelines.conversation.refusals import (
    ABSENT,
    NOTHING_ASKED,
    NOTHING_KNOWN,
    UNKNOWN_WORDS,
    NotPossibleError,
)
from dianjing.pipelines.conversation.rewriting import Understood
from dianjing.pipelines.conversation.scenes import Scene
from dianjing.pipelines.names import Names

BREAKS = re.compile(r"[,，;；.。!！?？、\n]+(?!不如)|\band then\b|\bthen\b|然后|并且|同时|接着|顺便|\band (?=[a-z]+\b)")
ADDS = {"add", "draw", "more"}
ACTIONS = {
    "undo",
    "redraw",
    "new",
    "add",
    "draw",
    "wish",
    "more",
    "remove",
    "replace",
    "inverse",
    "move",
    "bigger",
    "smaller",
    "paint",
}


class AbsentError(Exception):
    """Something is to be changed that is not there; its message is the name that a model is taught."""


@dataclass(frozen=True)
class Rules:
    """Knows the names of a model; `Rewriter`."""

    names: Names

    @cached_property
    def _reader(self) -> Reader:
        return Reader(self.names)

    def rewrite(self, text: str, scene: Scene | None) -> Understood:
        """Raises: NotPossibleError for a text that asks for nothing that is understood."""
        language = language_of(text)
        read, unknown = self._reader.read(text)
        words = ("、" if language == "zh" else ", ").join(unknown)
        hints = (UNKNOWN_WORDS.say(language, words=words),) if unknown else ()
        whole = gather(read)
        if "undo" in whole.kinds and not any(mention.name for mention in whole.named):
            return Understood(edits=(Undo(),))
        edits: list[Edit] = []
        if scene is None or "new" in whole.kinds:
            edits = _draw(whole)
        else:
            clauses = self._clauses(text)
            while clauses:
                clause = clauses.pop(0)
                if (instead := _instead(clause, clauses[0], scene) if clauses else None) is not None:
                    found, clauses = [instead], clauses[1:]
                else:
                    found = self._edits(clause, scene, language)
                for edit in found:
                    edits.append(edit)
                    scene = scene if isinstance(edit, Undo) else apply(scene, edit)
        if not edits:
            raise NotPossibleError(NOTHING_KNOWN if unknown else NOTHING_ASKED, language, words=words)
        return Understood(edits=tuple(edits), hints=hints)

    def _edits(self, clause: Clause, scene: Scene, language: str) -> list[Edit]:
        try:
            return _edits(clause, scene)
        except AbsentError as error:
            entry = self.names.find_object(str(error))
            name = entry.names_zh[0] if entry is not None and language == "zh" else str(error)
            raise NotPossibleError(ABSENT, language, name=name) from None

    def _clauses(self, text: str) -> list[Clause]:
        """Split where one change ends; a part that asks for none belongs to the one before, or else after."""
        parts: list[str] = []
        is_open = False  # nothing is asked for yet
        for part in (part for part in BREAKS.split(text) if part.strip()):
            asks = bool(gather(self._reader.read(part)[0]).kinds & ACTIONS)
            if parts and (is_open or not asks):
                parts[-1] = f"{parts[-1]} {part}"
                is_open = is_open and not asks
            else:
                parts.append(part)
                is_open = not asks
        return [gather(self._reader.read(part)[0]) for part in parts]


def _draw(said: Clause) -> list[Edit]:
    named = [mention for mention in said.mentions if mention.name is not None]
    if not named:
        return []
    if said.relation is not None and len(named) == 2:
        named.sort(key=lambda mention: mention.is_anchor)
        named = [replace(mention, place=None) for mention in named]
    elif said.place is not None:
        named[-1] = replace(named[-1], place=named[-1].place or said.place)
    wanted = tuple(mention.wanted() for mention in named)
    return [Draw(wanted=wanted, background=said.background, relation=said.relation if len(named) == 2 else None)]


def _find(mention: Mention | None, scene: Scene) -> int | None:
    """Which thing of the scene is meant."""
    if mention is None:
        return None
    if mention.name is None:
        return scene.focus
    same = [index for index, thing in enumerate(scene.things) if thing.name == mention.name]
    coloured = [index for index in same if scene.things[index].colour == mention.colour]
    return next(iter(coloured or same), None)


def _edits(said: Clause, scene: Scene) -> list[Edit]:
    """What one clause asks for; rules from the most to the least particular."""
    if "undo" in said.kinds:
        return [Undo()]
    if "redraw" in said.kinds and not any(mention.name for mention in said.named) and said.background is None:
        return [Redraw()]
    background: list[Edit] = []
    if said.background is None and "background" in said.kinds and said.colour is not None:
        said.background, said.colour = f"{_pale(said.colour)} background", None
    if said.background is not None and said.background != scene.background:
        background = [SetBackground(background=said.background)]
    for rule in (_replace, _remove, _resize, _recolour, _count, _add, _move):
        if edits := rule(said, scene):
            return background + edits
    return background


def _instead(said: Clause, then: Clause, scene: Scene) -> Edit | None:
    """ "no dog, a cat please": the one goes where the other was."""
    if "remove" not in said.kinds or len(said.named) != 1 or (of := _find(said.named[0], scene)) is None:
        return None
    added = _add(then, scene) if not then.kinds & ACTIONS - {"add", "draw", "wish"} else []
    if len(added) != 1 or not isinstance(added[0], Add) or added[0].wanted.place or added[0].relation:
        return None
    return Replace(of=of, wanted=added[0].wanted)


def _pale(colour: str) -> str:
    return "light blue" if colour == "blue" else colour


def _replace(said: Clause, scene: Scene) -> list[Edit]:
    if "prefer" in said.kinds and said.relation == "above" and len(said.named) == 1 and said.anchor is not None:
        old = _find(said.anchor, scene)  # "a dog over the cat"
        return [] if old is None else [Replace(of=old, wanted=said.named[0].wanted())]
    named = said.named if "not" not in said.kinds else [mention for mention in said.named if mention.name]
    if len(named) < 2 or not (said.kinds & {"replace", "inverse", "not", "stead"} or _is_to_be(named, said, scene)):
        return []
    first, second = named[:2]  # of "that is not a cat but a dog" too
    if _find(first, scene) is None or (_find(second, scene) is not None and _is_turned(first, second, said)):
        first, second = second, first
    of = _find(first, scene)
    if "not" in said.kinds and _find(second, scene) is not None:
        return []  # "the cat, not the dog"
    if of is None or second.name is None or (first.name is None and _find(second, scene) not in (None, of)):
        return []  # "make that three cats" is about the cats
    thing = scene.things[of]
    if thing.name == second.name and second.number is not None and second.number != thing.count:
        return [SetCount(of=of, count=second.number)]
    if thing.name == second.name and second.colour is None and second.size is not None:
        return [Resize(of=of, to="bigger" if second.size == "big" else "smaller")]
    kept = None if second.is_new else thing.count
    return [Replace(of=of, wanted=replace(second, number=second.number or kept).wanted())]


def _is_to_be(named: Sequence[Mention], said: Clause, scene: Scene) -> bool:
    """ "the cat should be a dog"."""
    first, second = named[:2]
    is_told = not first.is_new and second.is_new and not said.kinds & (ADDS | {"wish", "remove"}) and not said.place
    return is_told and _find(first, scene) is not None and _find(second, scene) is None and second.name is not None


def _is_turned(first: Mention, second: Mention, said: Clause) -> bool:
    """ "a dog instead of the cat"."""
    return "inverse" in said.kinds and first.is_new and not second.is_new


def _remove(said: Clause, scene: Scene) -> list[Edit]:
    if not ("remove" in said.kinds or ("take" in said.kinds and "out" in said.kinds)):
        return []
    found = [(mention, _find(mention, scene)) for mention in said.named] or [(Mention(name=None), scene.focus)]
    edits: list[Edit] = []
    for mention, of in sorted(found, key=lambda pair: -(pair[1] if pair[1] is not None else -1)):
        if of is None:
            raise AbsentError(mention.name)
        count, number = scene.things[of].count, mention.number
        is_some = number is not None and number < count
        edits.append(SetCount(of=of, count=count - number) if is_some and number is not None else Remove(of=of))
    return edits


def _about(said: Clause, scene: Scene) -> int | None:
    """The thing of the scene that a clause is about: the only one it names, or "it"."""
    return _find(said.named[0], scene) if said.named else scene.focus


def _resize(said: Clause, scene: Scene) -> list[Edit]:
    of = _about(said, scene)
    place = said.place or (said.named[0].place if said.named else None)
    if of is not None and "scale" in said.kinds and place in ("top", "bottom"):
        return [Resize(of=of, to="bigger" if place == "top" else "smaller")]  # "scale the cat up"
    size = said.size or (said.named[0].size if said.named and not said.named[0].is_new else None)
    is_asked = said.kinds & {"bigger", "smaller"}
    if of is None or not (is_asked or (size is not None and not said.kinds & ADDS)):
        return []
    return [Resize(of=of, to="bigger" if "bigger" in said.kinds or (not is_asked and size == "big") else "smaller")]


def _recolour(said: Clause, scene: Scene) -> list[Edit]:
    of = _about(said, scene)
    colour = said.colour or (said.named[0].colour if said.named and said.kinds & {"replace", "paint"} else None)
    if of is None or colour is None or colour == scene.things[of].colour:
        return []
    return [Recolour(of=of, colour=colour)]


def _count(said: Clause, scene: Scene) -> list[Edit]:
    mention = next((mention for mention in said.named if mention.name), next(iter(said.named), None))
    of = scene.focus if mention is None else _find(mention, scene)
    number = said.number or (mention.number if mention is not None else None)
    if of is None or number is None or said.place or said.relation:
        return []
    if said.kinds & {"add", "more"} and "total" not in said.kinds:
        return []
    if mention is not None and mention.place:
        return []
    count = scene.things[of].count
    if number < count and "draw" in said.kinds:
        return []  # "draw a cat" beside two of them
    return [SetCount(of=of, count=number)] if number != count else []


def _add(said: Clause, scene: Scene) -> list[Edit]:
    anchor = _find(said.anchor, scene)
    edits: list[Edit] = []
    adds = bool(said.kinds & ADDS)
    if not any(mention.name for mention in said.named) and ("more" in said.kinds or (adds and said.number is not None)):
        if said.place is None and said.relation is None:
            thing = scene.things[scene.focus]
            wanted = Mention(name=thing.name, colour=thing.colour, number=said.number or 1).wanted()
            edits.append(Add(wanted=wanted))
        return edits
    named = said.named
    if adds and len(named) == 1 and named[0].number is None and said.number is not None:
        named = [replace(named[0], number=said.number, is_new=True)]  # "cats: add two"
    for mention in named:
        is_there = _find(mention, scene) is not None
        if mention.name is None or (is_there and not (adds and (mention.is_new or "more" in said.kinds))):
            continue
        if not (is_there or adds or mention.is_new or "wish" in said.kinds) and said.kinds & ACTIONS:
            raise AbsentError(mention.name)
        like = _find(mention, scene)
        colour = mention.colour if mention.colour is not None or like is None else scene.things[like].colour
        place = mention.place or (None if said.relation else said.place)
        wanted = replace(mention, place=place, colour=colour).wanted()
        edits.append(Add(wanted=wanted, relation=said.relation if anchor is not None else None, anchor=anchor))
    return edits


def _move(said: Clause, scene: Scene) -> list[Edit]:
    of, anchor = _about(said, scene), _find(said.anchor, scene)
    place = said.place or (said.named[0].place if said.named else None)
    if of is None or of == anchor or (place is None and (said.relation is None or anchor is None)):
        return []
    relation = None if anchor is None else said.relation
    return [Move(of=of, place=None if relation else place, relation=relation, anchor=anchor)]
