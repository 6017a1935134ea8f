"""A tiny model to fine-tune, and pictures to do it with."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.config.run_file import parse_run_config
from dianjing.train.run import train_model
from dianjing.train.tokenizers import save_tokenizers
from tests.train.conftest import CAPTIONS, TinyWorld, autoencoder_run, text_to_image_run

STILL = {"resume": "auto", "wants_stop": lambda: False}


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A tiny Hunyuan-DiT folder, out of the trainer's own run."""
    folder = tmp_path_factory.mktemp("model")
    save_tokenizers(folder / "tokenizers", CAPTIONS, names=["小猫", "气球"], text_len=16, text_len_t5=16)
    train_model(autoencoder_run(folder / "vae", total_steps=2), TinyWorld(), **STILL)
    vae = folder / "vae" / "export" / "vae"
    config = text_to_image_run(folder / "dit", vae=vae, tokenizers=folder / "tokenizers", export_dtype="float32")
    even = config.model.transformer.model_copy(update={"num_layers": 4})  # diffusers' class draws with no other number
    config = config.model_copy(update={"model": config.model.model_copy(update={"transformer": even})})
    train_model(config, TinyWorld(), **STILL)
    return folder / "dit" / "export"


@pytest.fixture
def sets(tmp_path) -> Path:
    """The data set file of six square and three wide pictures with captions."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(9):
        width = 16 if index < 6 else 30
        levels = np.random.default_rng(index).integers(0, 256, (16, width, 3), dtype=np.uint8)
        Image.fromarray(levels).save(pictures / f"{index}.png")
        (pictures / f"{index}.txt").write_text(CAPTIONS[index % 4], encoding="utf-8")
    file = tmp_path / "sets.toml"
    file.write_text('[[datasets]]\npath = "pictures"\n')
    return file


def finetune_run(folder: Path, *, model: Path, sets: Path, changes: dict | None = None, **run) -> FinetuneRunConfig:
    """changes: of the sections besides run."""
    settings = {"total_steps": 6, "batch_size": 2, "checkpoint_every": 3, "log_every": 1, "seed": 7}
    tree = {
        "task": "finetune",
        "run": {"folder": str(folder), "export_dtype": "float32", **settings, **run},
        "data": {"datasets_file": str(sets), "size_px": 16, "cache": str(sets.parent / "cache")},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 1},
        "model": {"name": str(model), "lora": {"rank": 2}},
        "samples": {"prompts": ["小猫", "a balloon"], "num_inference_steps": 2},
    }
    for section, values in (changes or {}).items():
        tree[section] = {**tree.get(section, {}), **values}
    config = parse_run_config(tree)
    assert isinstance(config, FinetuneRunConfig)
    return config
