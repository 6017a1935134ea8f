"""Arguments of the endpoints for programs, and what is wrong with bad ones."""

import math

import pytest

from dianjing.demo.page.endpoint_arguments import parse_points, parse_region
from dianjing.errors import DianjingError
from dianjing.pipelines.segmentation.base import Point, Region


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


def test_a_region_has_the_path_the_turn_and_the_anchor_that_programs_give():
    path = {"path": [[1, 2], [9, 4], [20, 8]], "times": [0, 0.25, 1], "turn": 45, "scale": 0.5, "anchor": [3, 4]}
    region = parse_region(1, {"points": [[1, 2]], **path})
    expected = Region(points=[Point(x=1, y=2)], **{**path, "anchor": Point(x=3, y=4)})
    assert region == expected
    assert parse_region(1, {"target": "image", "turn": 5}) == Region(points=[], target="image", turn=5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"path": [[1, 2]]}, "1 point"),
        ({"path": [[1, 2]] * 100_000}, "100,000 points"),
        ({"path": [[1, 2], [math.nan, 3]]}, "not finite|nan"),
        ({"path": "1,2 3,4"}, "path"),
        ({"path": [[1, 2], [3]]}, "path"),
        ({"path": [[1, 2], [3, 4]], "times": [1, 0]}, "before|backwards|rise"),
        ({"path": [[1, 2], [3, 4]], "times": [0]}, "times"),
        ({"path": [[1, 2], [3, 4]], "times": "later"}, "times"),
        ({"path": [[1, 2], [3, 4]], "anchor": [1]}, "two numbers"),
        ({"turn": "far"}, "turn"),
        ({"turn": math.nan}, "turn"),
        ({"scale": 0}, "scale"),
        ({"turn": 5, "target": "sky"}, "target"),
        ({"turn": 5, "target": "image"}, "whole image"),
    ],
)
def test_a_bad_path_is_refused(bad, message):
    with pytest.raises(DianjingError, match=message):
        parse_region(1, {"points": [[1, 2]], **bad})
