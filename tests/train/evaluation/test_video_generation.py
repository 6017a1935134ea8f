"""The video report: results of work items are combined by row and column."""

import json
import sys

import numpy as np
import pytest

from dianjing.train.evaluation import video_generation
from dianjing.train.evaluation.video_generation import EvaluationWorkItem, make_video_report, make_work_items


def test_every_clip_is_in_one_work_item_and_ground_truth_is_a_column():
    work_items = make_work_items(["one_region", "strength"], 12)
    for column in ("zh", "en", "ground_truth"):
        positions = [
            n
            for each in work_items
            if (each.row, each.column) == ("one_region", column)
            for n in range(each.start, each.stop)
        ]
        assert positions == list(range(12))
    assert [(each.column, each.start, each.stop) for each in work_items if each.row == "strength"] == [
        ("zh", 0, 2),
        ("en", 0, 2),
    ]


def test_metrics_are_means_over_all_clips_not_over_work_items():
    work_items = [
        EvaluationWorkItem(row="one_region", column="zh", start=0, stop=3),
        EvaluationWorkItem(row="one_region", column="zh", start=3, stop=4),
    ]
    frames = np.zeros((9, 8, 8, 3), np.uint8)
    results = [({"motion_accuracy": [True, True, True]}, [frames] * 3), ({"motion_accuracy": [False]}, [frames])]
    report, previews = make_video_report(work_items, results)
    assert report == {"one_region": {"zh": {"motion_accuracy": 0.75}}}
    assert len(previews) == 3


@pytest.mark.timeout(600)
def test_the_command_writes_the_report_and_the_grid(tmp_path, monkeypatch):
    rows = [word for row in ("one_region", "clicked_region", "masks") for word in ("--only", row)]
    rows += ["--count", "1", "--steps", "2"]
    monkeypatch.setattr(
        sys, "argv", ["evaluation.video_generation", "--model", "sticker", *rows, "--out", str(tmp_path)]
    )
    video_generation._main()
    report = json.loads((tmp_path / "video_report.json").read_text())
    assert set(report["one_region"]) == {"zh", "en", "ground_truth"}
    assert report["one_region"]["ground_truth"]["motion_accuracy"] == 1
    assert report["one_region"]["ground_truth"]["i1_mse"] == 0
    assert report["clicked_region"]["ground_truth"] == report["one_region"]["ground_truth"]
    assert report["clicked_region"]["zh"] != report["one_region"]["zh"]  # its mask is not exactly the true one
    assert 0.5 < report["mask_iou_median"] <= 1
    assert (tmp_path / "video_grid.webp").exists()
