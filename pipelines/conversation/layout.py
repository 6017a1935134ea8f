"""Where objects go: beside what is there, over as little of it as can be."""

from collections.abc import Iterator, Sequence
from itertools import product

from dianjing.pipelines.conversation.refusals import NO_ROOM, NO_ROOM_TO_GROW, SMALLEST, NotPossibleError
from dianjing.pipelines.conversation.scenes import GRID, LARGEST, PLACES, SMALL, TINY, USUAL, Box

COVERED = (0, 1, 2, 3, 4)  # cells of another object that a box may cover, tried in this order: corners are mostly empty
CENTRES = (0, 2, 4)  # of the three columns and rows, for boxes of the usual side


def place_box(place: str, *, side: int = USUAL) -> Box:
    """The box of a place, as near to where one of the usual side is as the picture's edge allows."""
    row, column = divmod(PLACES.index(place), 3)
    x, y = (_around(CENTRES[index] + USUAL / 2, side) for index in (column, row))
    return Box(x=x, y=y, side=side)


def _around(centre: float, side: int) -> int:
    """Corners keep to the edge: there is most room for others then."""
    if side < USUAL and centre != GRID / 2:
        return 0 if centre < GRID / 2 else GRID - side
    return min(max(round(centre - side / 2), 0), GRID - side)


def resized(box: Box, *, side: int) -> Box:
    """A box of another side around the same centre, inside the picture."""
    x, y = (min(max(round(value - side / 2 - 0.01), 0), GRID - side) for value in box.centre)
    return Box(x=x, y=y, side=side)


def together(count: int) -> tuple[Box, ...]:
    """Boxes for objects that come at once: low enough to leave room for what comes later."""
    corners = {
        1: ((2, 2),), 2: ((0, 3), (4, 3)), 3: ((2, 0), (0, 4), (4, 4)), 4: ((0, 0), (4, 0), (0, 4), (4, 4)),
    }[count]  # fmt: skip
    return tuple(Box(x=x, y=y, side=USUAL) for x, y in corners)


def beside(relation: str) -> tuple[Box, Box]:
    """Boxes of two objects, the first of which is on this side of the second."""
    first, second = together(2) if relation in ("left", "right") else (_at(1, 0), _at(1, 4))
    return (first, second) if relation in ("left", "above") else (second, first)


def _at(x: int, y: int) -> Box:
    return Box(x=x, y=y, side=USUAL)


def is_beside(box: Box, anchor: Box, relation: str) -> bool:
    """Whether a box is on this side of another, more to this side than to another one."""
    along, across = _seen_from(anchor, box, relation)
    return along >= 1.5 and along >= across


def is_rather_beside(box: Box, anchor: Box, relation: str) -> bool:
    """Whether a box is on this side of another at all."""
    return _seen_from(anchor, box, relation)[0] >= 1


def _seen_from(anchor: Box, box: Box, relation: str) -> tuple[float, float]:
    """How far a box is on a side of another, and how far to either side of that."""
    dx, dy = (a - b for a, b in zip(box.centre, anchor.centre, strict=True))
    along, across = (dx, dy) if relation in ("left", "right") else (dy, dx)
    return -along if relation in ("left", "above") else along, abs(across)


def find_room(
    taken: Sequence[Box],
    *,
    place: str | None = None,
    anchor: Box | None = None,
    relation: str | None = None,
    sides: Sequence[int] = (USUAL, SMALL),
) -> Box:
    """The best box for one more object: large, uncovered, and where it was asked for.

    Raises: NotPossibleError where there is no room.
    """
    for is_right, most in product((is_beside, is_rather_beside), COVERED):
        for side in sides if most == 0 else sides[-1:]:
            free = [
                box
                for box in _boxes(side)
                if all(box.overlap(other) <= most for other in taken)
                and (place is None or is_in(box, place))
                and (anchor is None or relation is None or is_right(box, anchor, relation))
            ]
            if free:
                return min(free, key=lambda box: _cost(box, taken, place=place, anchor=anchor))
    raise NotPossibleError(NO_ROOM)


def is_in(box: Box, place: str) -> bool:
    """Whether a box is at a place; "left" is the left third, high or low."""
    return set(place.split()) <= set(box.place.split()) if place != "middle" else box.place == "middle"


def _boxes(side: int) -> Iterator[Box]:
    steps = range(GRID - side + 1)
    return (Box(x=x, y=y, side=side) for y in steps for x in steps)


def _cost(box: Box, taken: Sequence[Box], *, place: str | None, anchor: Box | None) -> float:
    """Small for a box that covers nothing, is where its place is, in line with its anchor, and low."""
    covered = sum(box.overlap(other) for other in taken)
    cost = 100.0 * covered - 0.01 * box.y + 0.001 * box.x
    if place is not None:
        cost += _distance(box, place_box(place, side=box.side))
    elif anchor is not None:
        cost += min(abs(a - b) for a, b in zip(box.centre, anchor.centre, strict=True))
    return cost


def _distance(a: Box, b: Box) -> float:
    return sum(abs(p - q) for p, q in zip(a.centre, b.centre, strict=True))


def larger(box: Box, taken: Sequence[Box]) -> Box:
    """A box one size up around the same centre, or as much larger as there is room for. Raises: NotPossibleError."""
    for side in range(min(LARGEST, box.side + 1), box.side, -1):
        grown = resized(box, side=side)
        moved = [grown, *(b for b in _boxes(side) if _distance(b, box) <= 2)]
        most = 0 if side > box.side + 1 else side  # a step of one may cover an edge
        free = [b for b in moved if all(b.overlap(other) <= most for other in taken)]
        if free:
            return min(free, key=lambda b: 10 * sum(b.overlap(o) for o in taken) + _distance(b, box))
    raise NotPossibleError(NO_ROOM_TO_GROW)


def smaller(box: Box) -> Box:
    """A box one size down around the same centre. Raises: NotPossibleError."""
    side = USUAL if box.side > USUAL else box.side - 1
    if side < TINY:
        raise NotPossibleError(SMALLEST)
    return resized(box, side=side)
