"""Arguments of the endpoints for programs, and what is wrong with bad ones."""

import pytest

from dianjing.demo.page.endpoint_arguments import parse_points, parse_region
from dianjing.pipelines.segmentation.base import Point


def test_points_are_pairs_of_numbers_with_a_label_each():
    assert parse_points([[1, 2], [3.5, 4]], [1, 0]) == [Point(x=1, y=2), Point(x=3.5, y=4, positive=False)]


def test_all_points_of_a_region_are_positive_without_labels():
    region = parse_region(1, {"points": [[1, 2]], "motion": "jump"})
    assert (region.motion, region.strength, region.points[0].positive) == ("jump", 0.5, True)


@pytest.mark.parametrize(
    ("points", "labels", "message"),
    [
        ([[1, 2]], [], "one label for each"),
        ([[1]], [1], "two numbers"),
        ([["a", 1]], [1], "two numbers"),
        (["12"], [1], "two numbers"),
    ],
)
def test_bad_points_are_refused(points, labels, message):
    with pytest.raises(ValueError, match=message):
        parse_points(points, labels)


@pytest.mark.parametrize("region", [None, {}, {"points": [[1, 2]]}, {"points": [], "motion": "a", "mask": 1}])
def test_a_bad_region_is_refused_by_its_number(region):
    with pytest.raises(ValueError, match="region 2"):
        parse_region(2, region)
