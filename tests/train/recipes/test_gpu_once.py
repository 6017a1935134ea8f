"""Stages of one short run on a GPU: their time, what each leaves, and what they import."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, T5Config, T5EncoderModel

from dianjing import ImageToVideoPipeline, TextToImagePipeline, TextToVideoPipeline
from dianjing.train.autoencoder import make_autoencoder
from dianjing.train.config import read_config
from dianjing.train.recipes import gpu_once, quick_evaluation
from dianjing.train.recipes.gpu_once import MODEL_STAGES, RECIPES, STAGES, Plan, overrides_for, run_stages, seconds_for
from dianjing.train.recipes.packing import MAX_FILES, MAX_PART_BYTES, unpack
from dianjing.train.segmenter import SegmenterTask
from dianjing.train.text_to_image import make_transformer
from dianjing.weights.sums import check_sums

ROOT = Path(__file__).parents[3]
MAX_BUNDLE_BYTES = 40e6
IMPORTS = """
import sys
import dianjing.train.__main__, dianjing.train.recipes.gpu_once, dianjing.train.evaluate_clips
from dianjing import ImageToVideoPipeline, TextToImagePipeline, TextToVideoPipeline
print(sorted({"av", "gradio", "fastapi", "imageio"} & set(sys.modules)))
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(out=tmp_path / "out", work=tmp_path, minutes=1.0, size_px=256, previous=None, is_tiny=False)


def check_files(out: Path) -> None:
    """At most 8 files of at most 16 MB, none in folders."""
    files = list(out.iterdir())
    assert len(files) <= MAX_FILES
    assert all(path.is_file() and path.stat().st_size <= MAX_PART_BYTES for path in files)


def load_all(folder: Path) -> None:
    for cls in (TextToImagePipeline, TextToVideoPipeline, ImageToVideoPipeline):
        cls.from_pretrained(folder)


def test_shares_make_up_the_whole_time():
    assert sum(stage.share for stage in STAGES) == pytest.approx(1.0)


@pytest.mark.parametrize("used", [0.0, 0.5, 1.0])
def test_time_that_a_stage_leaves_goes_to_those_after_it(used):
    remaining, given = 480.0, []
    for index in range(len(STAGES)):
        given.append(seconds_for(STAGES, index, remaining))
        remaining -= used * given[-1]
    assert all(got >= 480 * stage.share - 1e-9 for got, stage in zip(given, STAGES, strict=True))
    assert sum(used * seconds for seconds in given) <= 480 + 1e-9
    if used == 1.0:
        assert given == pytest.approx([480 * stage.share for stage in STAGES])
    else:
        assert given[-1] == pytest.approx(remaining + used * given[-1])  # the last has all that is left


def test_a_stage_keeps_time_for_its_export_and_trains_at_least_half():
    assert gpu_once.training_seconds(240.0) == 230.0
    assert gpu_once.training_seconds(40.0) == 34.0
    assert gpu_once.training_seconds(10.0) == 7.0
    assert gpu_once.training_seconds(4.0) == 2.0


def test_a_late_stage_has_little_time_and_not_less_than_none():
    assert seconds_for(STAGES, 4, -30.0) == gpu_once.MIN_STAGE_S


@pytest.mark.parametrize("is_tiny", [False, True])
def test_every_run_file_ends_with_its_time_and_takes_its_settings(plan, is_tiny):
    plan = Plan(**{**vars(plan), "is_tiny": is_tiny})
    for stage in STAGES:
        if stage.run_file is not None:
            config = read_config(RECIPES / stage.run_file, overrides_for(stage, plan, 60.0))
            assert config.optimizer.decay_over == "time"
            assert 45 / 60 <= config.run.max_minutes < 1.0  # the rest is for the export
            assert config.data.size_px == 256 // stage.size_divisor


def test_the_bundle_fits_the_package(plan):
    """Half precision: two bytes a weight, 2,500 tokens, and 2 MB for words, tokenizers and pictures."""
    configs = {
        stage.name: read_config(RECIPES / stage.run_file, overrides_for(stage, plan, 60.0))
        for stage in STAGES if stage.run_file is not None
    }  # fmt: skip
    model, tokens = configs["motion"].model, {"vocab_size": 2500}
    with torch.device("meta"):
        vae = make_autoencoder(configs["autoencoder"].model, size_px=256)
        parts = [
            vae,
            make_transformer(model, channels=vae.config.latent_channels, sample_size=32),
            SegmenterTask(configs["segmenter"].model, size_px=256, probe={}),
            BertModel(BertConfig(**model.bert.model_dump(), **tokens)),
            T5EncoderModel(T5Config(**model.t5.model_dump(), **tokens, feed_forward_proj="gated-gelu")),
        ]
    weights = sum(p.numel() for part in parts for p in part.parameters())
    assert 2 * weights + 2e6 < MAX_BUNDLE_BYTES


def test_the_training_path_imports_no_video_library_and_no_page():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_a_stage_that_fails_takes_only_those_along_that_need_it(plan, monkeypatch, tmp_path):
    def run_stage(stage, plan, done, seconds, stop):
        if stage.name == "field":
            raise RuntimeError("out of memory")
        return {"steps": 1}

    def assemble(plan, done):
        plan.bundle(done[-1]).mkdir(parents=True)
        (plan.bundle(done[-1]) / "done.json").write_text(json.dumps(list(done)))
        return plan.bundle(done[-1])

    monkeypatch.setattr(gpu_once, "run_stage", run_stage)
    monkeypatch.setattr(gpu_once, "assemble", assemble)
    stages = STAGES[:-1]
    assert run_stages(plan, stages, lambda: False) == ["field", "motion"]
    report = json.loads((plan.out / "run.json").read_text())["stages"]
    assert "out of memory" in report["field"]["error"]
    assert "'field'" in report["motion"]["error"]
    unpack(plan.out, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "done.json").read_text()) == ["autoencoder", "pictures", "segmenter"]


def test_judging_stops_before_a_round_that_would_not_fit(monkeypatch):
    clock, judged = iter(range(1000)), []

    def judge(category, draw, matcher, *, count, seed):
        judged.append((category.name, seed))
        found = {"right": 2, "background": 4, "count": 4}
        return {column: Counter(found) for column in ("zh", "en", "ceiling")}, []

    monkeypatch.setattr(quick_evaluation, "judge_category", judge)
    monkeypatch.setattr(quick_evaluation.time, "perf_counter", lambda: float(next(clock)))
    figures, _ = quick_evaluation.judge_within(None, None, seconds=16.0)
    assert figures["overall"] == {"zh": 0.5, "en": 0.5, "ceiling": 0.5}
    assert figures["prompts_a_language"]["counting"] == 4
    assert len(judged) < 2 * len(quick_evaluation.CATEGORIES)
    figures, _ = quick_evaluation.judge_within(None, None, seconds=4.0)
    assert figures == {}  # of some categories alone they would not be comparable


def run_tiny(out: Path, *arguments: str) -> dict[str, dict]:
    """gpu_once in a part of a minute; returns the figures of its stages."""
    command = [sys.executable, "-m", "dianjing.train.recipes.gpu_once", "--tiny", "--minutes", "0.3"]
    command += ["--work", str(out.with_name("work")), "--out", str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    check_files(out)
    return json.loads((out / "run.json").read_text())["stages"]


def check_bundle(folder: Path) -> None:
    load_all(folder)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    assert config["sample_size"] == 8  # of 64 px, though the motion field is trained on smaller pictures
    assert check_sums(folder) == []


def test_tiny_stages_leave_a_bundle_that_loads(tmp_path):
    stages = run_tiny(tmp_path / "out")
    assert list(stages) == [stage.name for stage in STAGES]
    assert all(stages[stage]["steps"] >= 1 and "data_wait" in stages[stage] for stage in MODEL_STAGES)
    unpack(tmp_path / "out", tmp_path / "bundle")
    check_bundle(tmp_path / "bundle")


@pytest.mark.slow
def test_a_second_run_goes_on_from_the_first_ones_weights(tmp_path):
    run_tiny(tmp_path / "first")
    run_tiny(tmp_path / "second", "--from", str(tmp_path / "first"))
    unpack(tmp_path / "second", tmp_path / "bundle")
    check_bundle(tmp_path / "bundle")
    for stage in ("autoencoder", "pictures", "segmenter"):
        runs = [json.loads(path.read_text()) for path in tmp_path.glob(f"work/*/{stage}/config.json")]
        assert sorted(run["model"]["start_from"] is not None for run in runs) == [False, True]
