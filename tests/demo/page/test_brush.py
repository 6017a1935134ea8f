"""The brush: strokes from the browser become a mask, and anything else is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from dianjing import DianjingError
from dianjing.demo.page.brush import Stroke, paint_mask, parse_strokes, serialize_canvas
from dianjing.demo.page.brush_panel import BrushCanvas
from dianjing.demo.page.edit_tab import make_page_edit


def test_a_stroke_paints_what_is_within_its_radius():
    mask = paint_mask([Stroke(points=((20, 20), (60, 20), (60, 50)), radius=5)], size=(100, 80))
    rows, columns = np.mgrid[:80, :100] + 0.5

    def distance(x0, y0, x1, y1):
        t = ((columns - x0) * (x1 - x0) + (rows - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)
        t = t.clip(0, 1)
        return np.hypot(columns - x0 - t * (x1 - x0), rows - y0 - t * (y1 - y0))

    nearest = np.minimum(distance(20, 20, 60, 20), distance(60, 20, 60, 50))
    assert mask[nearest < 4].all()
    assert not mask[nearest > 6.5].any()


def test_strokes_outlive_the_way_to_the_browser_and_back():
    strokes = [Stroke(points=((1.5, 2.0),), radius=3.0), Stroke(points=((0.0, 0.0), (9.0, 9.0)), radius=1.0)]
    value = json.loads(serialize_canvas(Image.new("RGB", (10, 10)), strokes, radius=2))
    assert parse_strokes(json.dumps(value["strokes"])) == strokes
    assert (value["width"], value["height"], value["radius"]) == (10, 10, 2)
    assert value["image"].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{}x",
        "[1]",
        '[{"points": [], "radius": 1}]',
        '[{"points": [[1]], "radius": 1}]',
        '[{"points": [[1, NaN]], "radius": 1}]',
        '[{"points": [[1, 2]], "radius": 1e9}]',
        '[{"points": [[1, 2]]}]',
        json.dumps([{"points": [[1, 2]], "radius": 1}] * 501),
        "[" * 100_000,
    ],
    ids=lambda text: str(text)[:40],
)
def test_what_are_no_strokes_is_refused(text):
    with pytest.raises(DianjingError, match="strokes"):
        parse_strokes(text)


def test_the_tab_edits_what_is_painted_or_named_or_everything():
    canvas = BrushCanvas(image=Image.new("RGB", (64, 48)))
    with pytest.raises(DianjingError, match="no image to edit"):
        make_page_edit(None, "", 1.0)
    assert not make_page_edit(canvas, " ", 0.5).is_masked
    assert make_page_edit(canvas, "the cat", 0.5).words == "the cat"
    painted = BrushCanvas(image=canvas.image, strokes=(Stroke(points=((30, 20),), radius=4),))
    assert make_page_edit(painted, "", 1.0).mask[20, 30]
    with pytest.raises(DianjingError, match="several ways"):
        make_page_edit(painted, "the cat", 1.0)
