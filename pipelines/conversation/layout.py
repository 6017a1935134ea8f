"""Placement of boxes on the grid of a scene: free positions, relations between boxes, resizing."""

from collections.abc import Iterator, Sequence
from itertools import product

from dianjing.pipelines.conversation.errors import EditError
from dianjing.pipelines.conversation.scene import (
    DEFAULT_SIDE,
    GRID_SIZE,
    MAX_SIDE,
    MIN_SIDE,
    POSITIONS,
    SMALL_SIDE,
    Box,
)

# cells of another box that a new box may cover, tried in this order: the corners of objects are mostly empty
MAX_OVERLAPS = (0, 1, 2, 3, 4)
CELL_OFFSETS = (0, 2, 4)  # left or top edge of the three columns and rows, for boxes of the default side


def get_position_box(position: str, *, side: int = DEFAULT_SIDE) -> Box:
    """Return the box of a position, centered as near to the box of the default side as the image's edge allows."""
    row, column = divmod(POSITIONS.index(position), 3)
    x, y = (_get_offset(CELL_OFFSETS[index] + DEFAULT_SIDE / 2, side) for index in (column, row))
    return Box(x=x, y=y, side=side)


def _get_offset(center: float, side: int) -> int:
    """Return the left or top edge of a box with this center; small boxes off the center touch the image's edge."""
    if side < DEFAULT_SIDE and center != GRID_SIZE / 2:
        return 0 if center < GRID_SIZE / 2 else GRID_SIZE - side
    return min(max(round(center - side / 2), 0), GRID_SIZE - side)


def resize_box(box: Box, *, side: int) -> Box:
    """Return a box with another side around the same center, moved inside the image."""
    x, y = (min(max(round(value - side / 2 - 0.01), 0), GRID_SIZE - side) for value in box.center)
    return Box(x=x, y=y, side=side)


def make_group_boxes(count: int) -> tuple[Box, ...]:
    """Return boxes for 1 to 4 objects that are added together, low enough to leave room for later ones."""
    corners_by_count = {
        1: ((2, 2),),
        2: ((0, 3), (4, 3)),
        3: ((2, 0), (0, 4), (4, 4)),
        4: ((0, 0), (4, 0), (0, 4), (4, 4)),
    }
    return tuple(Box(x=x, y=y, side=DEFAULT_SIDE) for x, y in corners_by_count[count])


def make_adjacent_boxes(relation: str) -> tuple[Box, Box]:
    """Return the boxes of two objects, where the first has this relation to the second."""
    first, second = (
        make_group_boxes(2) if relation in ("left", "right") else (_make_default_box(1, 0), _make_default_box(1, 4))
    )
    return (first, second) if relation in ("left", "above") else (second, first)


def _make_default_box(x: int, y: int) -> Box:
    return Box(x=x, y=y, side=DEFAULT_SIDE)


def has_relation(box: Box, anchor: Box, relation: str) -> bool:
    """Return True if a box is on this side of the anchor, and further to this side than to any other."""
    along, across = _get_relative_offset(anchor, box, relation)
    return along >= 1.5 and along >= across


def has_loose_relation(box: Box, anchor: Box, relation: str) -> bool:
    """Return True if a box is on this side of the anchor at all, by one cell or more."""
    return _get_relative_offset(anchor, box, relation)[0] >= 1


def _get_relative_offset(anchor: Box, box: Box, relation: str) -> tuple[float, float]:
    """Return the distances (along, across) of a box from the anchor, in the direction of the relation and across it."""
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
    """Find the best box for one more object: as large as possible, overlapping as little as possible, where requested.

    sides: allowed sides, preferred first. relation: where the box goes, seen from `anchor`.
    Raises: EditError if there is no room.
    """
    for is_related, max_overlap in product((has_relation, has_loose_relation), MAX_OVERLAPS):
        for side in sides if max_overlap == 0 else sides[-1:]:
            candidates = [
                box
                for box in _iterate_boxes(side)
                if all(box.count_shared_cells(other) <= max_overlap for other in occupied)
                and (position is None or is_at_position(box, position))
                and (anchor is None or relation is None or is_related(box, anchor, relation))
            ]
            if candidates:
                return min(candidates, key=lambda box: _get_cost(box, occupied, position=position, anchor=anchor))
    raise EditError("no_free_box")


def is_at_position(box: Box, position: str) -> bool:
    """Return True if the center of a box lies at a position; "left" is the left third at any height."""
    return set(position.split()) <= set(box.position.split()) if position != "center" else box.position == "center"


def _iterate_boxes(side: int) -> Iterator[Box]:
    steps = range(GRID_SIZE - side + 1)
    return (Box(x=x, y=y, side=side) for y in steps for x in steps)


def _get_cost(box: Box, occupied: Sequence[Box], *, position: str | None, anchor: Box | None) -> float:
    """Return a cost that is small for a box without overlap, near its position or in line with its anchor, and low."""
    overlap = sum(box.count_shared_cells(other) for other in occupied)
    cost = 100.0 * overlap - 0.01 * box.y + 0.001 * box.x
    if position is not None:
        cost += _get_distance(box, get_position_box(position, side=box.side))
    elif anchor is not None:
        cost += min(abs(a - b) for a, b in zip(box.center, anchor.center, strict=True))
    return cost


def _get_distance(a: Box, b: Box) -> float:
    return sum(abs(p - q) for p, q in zip(a.center, b.center, strict=True))


def enlarge_box(box: Box, occupied: Sequence[Box]) -> Box:
    """Return a box with one more cell a side around about the same center, with the least overlap.

    Raises: EditError if there is no room.
    """
    side = box.side + 1
    if side > MAX_SIDE:
        raise EditError("cannot_enlarge")
    nearby = [resize_box(box, side=side), *(b for b in _iterate_boxes(side) if _get_distance(b, box) <= 2)]
    # up to one row or column of another object may be covered
    candidates = [b for b in nearby if all(b.count_shared_cells(other) <= side for other in occupied)]
    if not candidates:
        raise EditError("cannot_enlarge")
    return min(candidates, key=lambda b: 10 * sum(b.count_shared_cells(o) for o in occupied) + _get_distance(b, box))


def shrink_box(box: Box) -> Box:
    """Return a box one size smaller around the same center. Raises: EditError for the smallest side."""
    side = DEFAULT_SIDE if box.side > DEFAULT_SIDE else box.side - 1
    if side < MIN_SIDE:
        raise EditError("cannot_shrink")
    return resize_box(box, side=side)
