"""Placement of two subjects with room for their motions."""

import pytest

from dianjing.pipelines.prompting.placement import BOTTOM, LEFT, RIGHT, TOP, ZERO_EXTENT, choose_placement

FAR = 0.375
GO_LEFT, GO_UP, GO_RIGHT, GO_DOWN = (tuple(FAR * (i == side) for i in range(4)) for side in range(4))


@pytest.mark.parametrize(
    ("extents", "centers"),
    [
        ((ZERO_EXTENT, ZERO_EXTENT), (LEFT, RIGHT)),
        ((GO_UP, ZERO_EXTENT), (LEFT, RIGHT)),
        ((ZERO_EXTENT, GO_DOWN), (LEFT, RIGHT)),
        ((GO_LEFT, ZERO_EXTENT), (TOP, BOTTOM)),
        ((ZERO_EXTENT, GO_RIGHT), (TOP, BOTTOM)),
        ((GO_LEFT, GO_RIGHT), (TOP, BOTTOM)),
        ((GO_LEFT, GO_UP), (RIGHT, LEFT)),
        ((GO_RIGHT, GO_DOWN), (LEFT, RIGHT)),
    ],
)
def test_subjects_stay_in_the_image_and_overlap_only_if_they_must(extents, centers):
    assert choose_placement(extents).centers == centers
