"""Stages of one short run on a GPU: their time, their results, and what they import."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, T5Config, T5EncoderModel

from dianjing import ImageToVideoPipeline, TextToImagePipeline, TextToVideoPipeline
from dianjing.train.config.run_file import read_run_config
from dianjing.train.recipes import gpu_once, quick_evaluation
from dianjing.train.recipes.gpu_once import run_stages
from dianjing.train.recipes.gpu_once_stages import (
    GPU_STAGES,
    MIN_STAGE_S,
    RECIPES,
    GpuOnceSettings,
    allot_seconds,
    get_training_seconds,
    make_overrides,
)
from dianjing.train.recipes.packing import MAX_FILES, MAX_PART_BYTES, unpack_folder
from dianjing.train.tasks.autoencoder import make_autoencoder
from dianjing.train.tasks.segmenter import SegmenterTask
from dianjing.train.tasks.text_to_image_model import make_transformer

ROOT = Path(__file__).parents[3]
MAX_BUNDLE_BYTES = 40e6
IMPORTS = """
import sys
import dianjing.train.__main__, dianjing.train.recipes.gpu_once, dianjing.train.evaluation.video_generation
from dianjing import ImageToVideoPipeline, TextToImagePipeline, TextToVideoPipeline
print(sorted({"av", "gradio", "fastapi", "imageio"} & set(sys.modules)))
"""


@pytest.fixture
def settings(tmp_path: Path) -> GpuOnceSettings:
    return GpuOnceSettings(out=tmp_path / "out", work=tmp_path, minutes=1.0, size_px=256, previous=None, is_tiny=False)


def check_files(out: Path) -> None:
    """Check that there are at most 8 files of at most 16 MB, none in folders."""
    files = list(out.iterdir())
    assert len(files) <= MAX_FILES
    assert all(path.is_file() and path.stat().st_size <= MAX_PART_BYTES for path in files)


def load_all(folder: Path) -> None:
    for cls in (TextToImagePipeline, TextToVideoPipeline, ImageToVideoPipeline):
        cls.from_pretrained(folder)


def test_time_shares_add_up_to_one():
    assert sum(stage.time_share for stage in GPU_STAGES) == pytest.approx(1.0)


@pytest.mark.parametrize("used_fraction", [0.0, 0.5, 1.0])
def test_time_that_a_stage_leaves_goes_to_later_stages(used_fraction):
    remaining_s, allotted = 480.0, []
    for index in range(len(GPU_STAGES)):
        allotted.append(allot_seconds(GPU_STAGES, index, remaining_s))
        remaining_s -= used_fraction * allotted[-1]
    assert all(s >= 480 * stage.time_share - 1e-9 for s, stage in zip(allotted, GPU_STAGES, strict=True))
    assert sum(used_fraction * seconds for seconds in allotted) <= 480 + 1e-9
    if used_fraction == 1.0:
        assert allotted == pytest.approx([480 * stage.time_share for stage in GPU_STAGES])
    else:
        assert allotted[-1] == pytest.approx(remaining_s + used_fraction * allotted[-1])  # all that is left


def test_a_stage_reserves_time_for_its_export_and_trains_at_least_half():
    assert get_training_seconds(240.0) == 230.0
    assert get_training_seconds(40.0) == 34.0
    assert get_training_seconds(10.0) == 7.0
    assert get_training_seconds(4.0) == 2.0


def test_a_late_stage_has_the_minimum_time():
    assert allot_seconds(GPU_STAGES, 4, -30.0) == MIN_STAGE_S


@pytest.mark.parametrize("is_tiny", [False, True])
def test_every_run_file_ends_with_its_time_and_accepts_its_overrides(settings, is_tiny):
    settings = replace(settings, is_tiny=is_tiny)
    for stage in GPU_STAGES:
        if stage.run_file is not None:
            config = read_run_config(RECIPES / stage.run_file, make_overrides(stage, settings, 60.0))
            assert config.optimizer.lr_decay_over == "time"
            assert 45 / 60 <= config.run.max_minutes < 1.0  # the rest is for the export
            assert config.data.size_px == 256 // stage.size_divisor


def test_the_bundle_fits_the_package(settings):
    """Half precision: two bytes per weight, 2,500 tokens, and 2 MB for vocabularies, tokenizers and images."""
    configs = {
        stage.name: read_run_config(RECIPES / stage.run_file, make_overrides(stage, settings, 60.0))
        for stage in GPU_STAGES
        if stage.run_file is not None
    }
    model, tokens = configs["motion"].model, {"vocab_size": 2500}
    with torch.device("meta"):
        vae = make_autoencoder(configs["autoencoder"].model, size_px=256)
        parts = [
            vae,
            make_transformer(model, channels=vae.config.latent_channels, sample_size=32),
            SegmenterTask(configs["segmenter"].model, size_px=256, validation_batch={}),
            BertModel(BertConfig(**model.bert.model_dump(), **tokens)),
            T5EncoderModel(T5Config(**model.t5.model_dump(), **tokens, feed_forward_proj="gated-gelu")),
        ]
    num_weights = sum(p.numel() for part in parts for p in part.parameters())
    assert 2 * num_weights + 2e6 < MAX_BUNDLE_BYTES


def test_the_training_path_imports_no_video_library_and_no_page():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_a_failed_stage_fails_only_those_that_need_it(settings, monkeypatch, tmp_path):
    def run_stage(stage, settings, done, stage_s, should_stop):
        if stage.name == "flow_field":
            raise RuntimeError("out of memory")
        return {"steps": 1}

    def assemble_bundle(settings, done):
        folder = settings.get_bundle(done[-1])
        folder.mkdir(parents=True)
        (folder / "done.json").write_text(json.dumps(list(done)))
        return folder

    monkeypatch.setattr(gpu_once, "run_stage", run_stage)
    monkeypatch.setattr(gpu_once, "assemble_bundle", assemble_bundle)
    assert run_stages(settings, GPU_STAGES[:-1], lambda: False) == ["flow_field", "motion"]
    report = json.loads((settings.out / "run.json").read_text())["stages"]
    assert "out of memory" in report["flow_field"]["error"]
    assert "'flow_field'" in report["motion"]["error"]
    unpack_folder(settings.out, tmp_path / "back")
    done = json.loads((tmp_path / "back" / "done.json").read_text())
    assert done == ["autoencoder", "text_to_image", "segmenter"]


def test_quick_evaluation_stops_before_a_category_that_would_not_fit(monkeypatch):
    clock, evaluated = iter(range(1000)), []

    def evaluate_category(category, generate, matcher, *, num_samples, seed):
        evaluated.append((category.name, seed))
        counts = {"correct": 2, "background": 4, "count": 4}
        return {column: Counter(counts) for column in ("zh", "en", "ground_truth")}, []

    monkeypatch.setattr(quick_evaluation, "evaluate_category", evaluate_category)
    monkeypatch.setattr(quick_evaluation.time, "perf_counter", lambda: float(next(clock)))
    figures, _ = quick_evaluation.evaluate_categories_within(None, None, seconds=16.0)
    assert figures["overall"] == {"zh": 0.5, "en": 0.5, "ground_truth": 0.5}
    assert figures["prompts_per_language"]["counting"] == 4
    assert len(evaluated) < 2 * len(quick_evaluation.CATEGORIES)
    figures, _ = quick_evaluation.evaluate_categories_within(None, None, seconds=4.0)
    assert figures == {}  # figures of some categories alone would not be comparable
