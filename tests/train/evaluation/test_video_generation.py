"""The report on clips: what its parts find is put together by row and language."""

import json
import sys

import numpy as np
import pytest

from dianjing.train.evaluation import video_generation
from dianjing.train.evaluation.video_generation import EvaluationWorkItem, make_video_report, make_work_items


def test_every_clip_is_in_one_part_and_the_truth_is_a_column_of_its_own():
    parts = make_work_items(["one_region", "strength"], 12)
    for column in ("zh", "en", "ground_truth"):
        found = [n for p in parts if (p.row, p.column) == ("one_region", column) for n in range(p.start, p.stop)]
        assert found == list(range(12))
    assert [(p.column, p.start, p.stop) for p in parts if p.row == "strength"] == [("zh", 0, 2), ("en", 0, 2)]


def test_figures_are_means_over_all_clips_not_over_parts():
    parts = [
        EvaluationWorkItem(row="one_region", column="zh", start=0, stop=3),
        EvaluationWorkItem(row="one_region", column="zh", start=3, stop=4),
    ]
    frames = np.zeros((9, 8, 8, 3), np.uint8)
    judged = [({"motion_accuracy": [True, True, True]}, [frames] * 3), ({"motion_accuracy": [False]}, [frames])]
    report, shown = make_video_report(parts, judged)
    assert report == {"one_region": {"zh": {"motion_accuracy": 0.75}}}
    assert len(shown) == 3


@pytest.mark.timeout(600)
def test_the_command_writes_figures_and_clips(tmp_path, monkeypatch):
    rows = ["--only", "one_region", "--only", "masks", "--count", "1", "--steps", "2"]
    monkeypatch.setattr(
        sys, "argv", ["evaluation.video_generation", "--model", "sticker", *rows, "--out", str(tmp_path)]
    )
    video_generation._main()
    report = json.loads((tmp_path / "video_report.json").read_text())
    assert set(report["one_region"]) == {"zh", "en", "ground_truth"}
    assert report["one_region"]["ground_truth"]["motion_accuracy"] == 1
    assert report["one_region"]["ground_truth"]["i1_mse"] == 0
    assert 0 <= report["mask_iou_median"] <= 1
    assert (tmp_path / "video_grid.png").exists()
