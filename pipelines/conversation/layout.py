"""Where objects go: beside what is there, over as little of it as can be."""

from collections.abc import Iterator, Sequence
from itertools import product

from dianjing.pipelines.conversation.messages import CANNOT_ENLARGE, CANNOT_SHRINK, NO_FREE_BOX, EditError
from dianjing.pipelines.conversation.scene import (
    DEFAULT_SIDE,
    GRID_SIZE,
    MAX_SIDE,
    MIN_SIDE,
    POSITIONS,
    SMALL_SIDE,
    Box,
)

MAX_OVERLAPS = (
    0,
    1,
    2,
    3,
    4,
)  # cells of another object that a box may cover, tried in this order: corners are mostly empty
CELL_OFFSETS = (0, 2, 4)  # of the three columns and rows, for boxes of the usual side


def get_position_box(position: str, *, side: int = DEFAULT_SIDE) -> Box:
    """The box of a place, as near to where one of the usual side is as the picture's edge allows."""
    row, column = divmod(POSITIONS.index(position), 3)
    x, y = (_get_offset(CELL_OFFSETS[index] + DEFAULT_SIDE / 2, side) for index in (column, row))
    return Box(x=x, y=y, side=side)


def _get_offset(center: float, side: int) -> int:
    """Corners keep to the edge: there is most room for others then."""
    if side < DEFAULT_SIDE and center != GRID_SIZE / 2:
        return 0 if center < GRID_SIZE / 2 else GRID_SIZE - side
    return min(max(round(center - side / 2), 0), GRID_SIZE - side)


def resize_box(box: Box, *, side: int) -> Box:
    """A box of another side around the same centre, inside the picture."""
    x, y = (min(max(round(value - side / 2 - 0.01), 0), GRID_SIZE - side) for value in box.center)
    return Box(x=x, y=y, side=side)


def make_group_boxes(count: int) -> tuple[Box, ...]:
    """Boxes for objects that come at once: low enough to leave room for what comes later."""
    corners = {1: ((2, 2),), 2: ((0, 3), (4, 3)), 3: ((2, 0), (0, 4), (4, 4)), 4: ((0, 0), (4, 0), (0, 4), (4, 4))}[
        count
    ]
    return tuple(Box(x=x, y=y, side=DEFAULT_SIDE) for x, y in corners)


def make_adjacent_boxes(relation: str) -> tuple[Box, Box]:
    """Boxes of two objects, the first of which is on this side of the second."""
    first, second = (
        make_group_boxes(2) if relation in ("left", "right") else (_make_default_box(1, 0), _make_default_box(1, 4))
    )
    return (first, second) if relation in ("left", "above") else (second, first)


def _make_default_box(x: int, y: int) -> Box:
    return Box(x=x, y=y, side=DEFAULT_SIDE)


def has_relation(box: Box, anchor: Box, relation: str) -> bool:
    """Whether a box is on this side of another, more to this side than to another one."""
    along, across = _get_relative_offset(anchor, box, relation)
    return along >= 1.5 and along >= across


def has_loose_relation(box: Box, anchor: Box, relation: str) -> bool:
    """Whether a box is on this side of another at all."""
    return _get_relative_offset(anchor, box, relation)[0] >= 1


def _get_relative_offset(anchor: Box, box: Box, relation: str) -> tuple[float, float]:
    """How far a box is on a side of another, and how far to either side of that."""
    dx, dy = (a - b for a, b in zip(box.center, anchor.center, strict=True))
    along, across = (dx, dy) if relation in ("left", "right") else (dy, dx)
    return -along if relation in ("left", "above") else along, abs(across)


def find_free_box(
    occupied: Sequence[Box],
    *,
    position: str | None = None,
    anchor: Box | None = None,
    relation: str | None = None,
    sides: Sequence[int] = (DEFAULT_SIDE, SMALL_SIDE),
) -> Box:
    """The best box for one more object: large, uncovered, and where it was asked for.

    Raises: NotPossibleError where there is no room.
    """
    for is_right, most in product((has_relation, has_loose_relation), MAX_OVERLAPS):
        for side in sides if most == 0 else sides[-1:]:
            free = [
                box
                for box in _iterate_boxes(side)
                if all(box.count_shared_cells(other) <= most for other in occupied)
                and (position is None or is_at_position(box, position))
                and (anchor is None or relation is None or is_right(box, anchor, relation))
            ]
            if free:
                return min(free, key=lambda box: _get_cost(box, occupied, position=position, anchor=anchor))
    raise EditError(NO_FREE_BOX)


def is_at_position(box: Box, position: str) -> bool:
    """Whether a box is at a place; "left" is the left third, high or low."""
    return set(position.split()) <= set(box.position.split()) if position != "center" else box.position == "center"


def _iterate_boxes(side: int) -> Iterator[Box]:
    steps = range(GRID_SIZE - side + 1)
    return (Box(x=x, y=y, side=side) for y in steps for x in steps)


def _get_cost(box: Box, occupied: Sequence[Box], *, position: str | None, anchor: Box | None) -> float:
    """Small for a box that covers nothing, is where its place is, in line with its anchor, and low."""
    covered = sum(box.count_shared_cells(other) for other in occupied)
    cost = 100.0 * covered - 0.01 * box.y + 0.001 * box.x
    if position is not None:
        cost += _get_distance(box, get_position_box(position, side=box.side))
    elif anchor is not None:
        cost += min(abs(a - b) for a, b in zip(box.center, anchor.center, strict=True))
    return cost


def _get_distance(a: Box, b: Box) -> float:
    return sum(abs(p - q) for p, q in zip(a.center, b.center, strict=True))


def enlarge_box(box: Box, occupied: Sequence[Box]) -> Box:
    """A box one size up around the same centre, or as much larger as there is room for. Raises: NotPossibleError."""
    for side in range(min(MAX_SIDE, box.side + 1), box.side, -1):
        grown = resize_box(box, side=side)
        moved = [grown, *(b for b in _iterate_boxes(side) if _get_distance(b, box) <= 2)]
        most = 0 if side > box.side + 1 else side  # a step of one may cover an edge
        free = [b for b in moved if all(b.count_shared_cells(other) <= most for other in occupied)]
        if free:
            return min(free, key=lambda b: 10 * sum(b.count_shared_cells(o) for o in occupied) + _get_distance(b, box))
    raise EditError(CANNOT_ENLARGE)


def shrink_box(box: Box) -> Box:
    """A box one size down around the same centre. Raises: NotPossibleError."""
    side = DEFAULT_SIDE if box.side > DEFAULT_SIDE else box.side - 1
    if side < MIN_SIDE:
        raise EditError(CANNOT_SHRINK)
    return resize_box(box, side=side)
