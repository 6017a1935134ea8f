"""Pace of a path: names that give times, and times as text."""

import numpy as np
import pytest

from dianjing.demo.page.pace import PACES, apply_pace, name_pace
from dianjing.pipelines.video.motion_path import make_similarities

STRAIGHT = [(10.0, 10.0), (90.0, 10.0)]
# where an object is at a fourth of the time, as a share of the way: t^2, 1 - (1 - t)^2, (1 - cos(pi t)) / 2
SHARES = {"faster": 0.0625, "slower": 0.4375, "gentle": 0.1464}


@pytest.mark.parametrize("name", PACES)
def test_a_named_pace_moves_as_its_formula_says(name):
    path, times = apply_pace(STRAIGHT, name)
    motion = make_similarities(path=path, turn=0, scale=1, times=times, num_frames=5)
    assert motion[1].dx / 80 == pytest.approx(SHARES[name], abs=0.02)
    assert (motion[0].dx, motion[-1].dx) == (0, pytest.approx(80))
    assert name_pace(path, times) == name
    assert apply_pace(path, "")[1] is None


def test_a_pace_keeps_the_curve():
    path = [(0.0, 0.0), (30.0, 40.0), (80.0, 10.0)]
    refined, _ = apply_pace(path, "gentle")
    before, after = (
        np.array([(m.dx, m.dy) for m in make_similarities(path=p, turn=0, scale=1, times=None, num_frames=40)])
        for p in (path, refined)
    )
    assert np.hypot(*(before - after).T).max() < 0.3


def test_times_may_be_written_out():
    path, times = apply_pace([(0, 0), (5, 5), (9, 0)], "0, 0.7 1")
    assert (len(path), times) == (3, (0.0, 0.7, 1.0))
    assert name_pace(path, times) == "0 0.7 1"


@pytest.mark.parametrize("pace", ["soon", "0 1", "0 0.8 0.2", "0 nan 1", "0 0.5 2", "9" * 500])
def test_other_text_is_refused(pace):
    with pytest.raises(ValueError, match=r"pace|time"):
        apply_pace([(0, 0), (5, 5), (9, 0)], pace)


@pytest.mark.parametrize("name", PACES)
def test_a_path_that_goes_nowhere_keeps_an_even_pace(name):
    assert apply_pace([(5, 5), (5, 5)], name) == (((5, 5), (5, 5)), None)
