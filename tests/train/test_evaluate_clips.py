"""The report on clips: what its parts find is put together by row and language."""

import json
import sys

import numpy as np
import pytest

from dianjing.train import evaluate_clips
from dianjing.train.evaluate_clips import Part, parts_of, report_of


def test_every_clip_is_in_one_part_and_the_truth_is_a_column_of_its_own():
    parts = parts_of(["clicks", "strength"], 12)
    for column in ("zh", "en", "ceiling"):
        found = [n for p in parts if (p.row, p.column) == ("clicks", column) for n in range(p.first, p.last)]
        assert found == list(range(12))
    assert [(p.column, p.first, p.last) for p in parts if p.row == "strength"] == [("zh", 0, 2), ("en", 0, 2)]


def test_figures_are_means_over_all_clips_not_over_parts():
    parts = [Part(row="clicks", column="zh", first=0, last=3), Part(row="clicks", column="zh", first=3, last=4)]
    frames = np.zeros((9, 8, 8, 3), np.uint8)
    judged = [({"motion_right": [True, True, True]}, [frames] * 3), ({"motion_right": [False]}, [frames])]
    report, shown = report_of(parts, judged)
    assert report == {"clicks": {"zh": {"motion_right": 0.75}}}
    assert len(shown) == 3


@pytest.mark.timeout(600)
def test_the_command_writes_figures_and_clips(tmp_path, monkeypatch):
    rows = ["--only", "clicks", "--only", "masks", "--count", "1", "--steps", "2"]
    monkeypatch.setattr(sys, "argv", ["evaluate_clips", "--model", "sticker", *rows, "--out", str(tmp_path)])
    evaluate_clips._main()
    report = json.loads((tmp_path / "clips.json").read_text())
    assert set(report["clicks"]) == {"zh", "en", "ceiling"}
    assert report["clicks"]["ceiling"]["motion_right"] == 1
    assert report["clicks"]["ceiling"]["i1_mse"] == 0
    assert 0 <= report["mask_iou_median"] <= 1
    assert (tmp_path / "clips.png").exists()
