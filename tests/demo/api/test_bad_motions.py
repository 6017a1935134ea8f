"""Motions that are made of no numbers, as JSON may hold them."""

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
