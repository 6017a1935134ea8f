"""Motions that are too many, too long, or made of no numbers, as JSON may hold them."""

import json
import re

import pytest

VALUES = {"path": [[5, 5], [9, 777]], "times": [0, 777], "turn": 777, "scale": 777, "anchor": {"x": 777, "y": 9}}


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", VALUES)
def test_a_motion_of_numbers_that_are_none_is_refused(client, square, number, field):
    region = {"points": [{"x": 16, "y": 16}], "path": [[5, 5], [9, 9]], field: VALUES[field]}
    body = json.dumps({"image": square, "regions": [region]}).replace("777", number)
    response = client.post("/v1/videos", content=body.encode(), headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert re.search("is no position|finite|inf|nan", response.json()["error"]["message"])


def move(**fields):
    return {"points": [{"x": 16, "y": 16}], "path": [[1, 1], [2, 2]], **fields}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"regions": [move()] * 17}, "17 regions are given; this model takes 1 to 16"),
        ({"regions": [move(path=[[1, 1]] * 100_000)]}, "100,000 points; at most 1,000"),
        ({"regions": [move()], "strict_background": False}, "for published video models alone"),
    ],
)
def test_more_than_a_model_takes_is_refused(client, square, body, message):
    response = client.post("/v1/videos", json={"image": square, **body})
    assert response.status_code == 400
    assert message in response.json()["error"]["message"]
