"""Fixtures of the training tests: tokenizers, a tiny model to fine-tune, and a data set."""

import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.run import train_model
from dianjing.train.tokenizers import save_tokenizers
from tests.train.finetuning import make_finetune_config
from tests.train.tiny import CAPTIONS, UNINTERRUPTED, TinySource, make_autoencoder_config, make_text_to_image_config


@pytest.fixture(autouse=True)
def signal_handlers():
    """A run of the command takes the signals of its process for itself; they are given back here."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory) -> Path:
    """The folder of the tokenizers for `CAPTIONS`, which tests only read."""
    folder = tmp_path_factory.mktemp("tokenizers")
    save_tokenizers(folder, CAPTIONS, names=["小猫", "气球"], text_len=16, text_len_t5=16)
    return folder


@pytest.fixture(scope="session")
def vae(tmp_path_factory) -> Path:
    """The folder of a tiny autoencoder that the trainer has made, which tests only read."""
    folder = tmp_path_factory.mktemp("vae")
    train_model(make_autoencoder_config(folder, total_steps=2), TinySource(), **UNINTERRUPTED)
    return folder / "export" / "vae"


@pytest.fixture(scope="session")
def model(tmp_path_factory, vae, tokenizers) -> Path:
    """The folder of a tiny Hunyuan-DiT that the trainer has made, which tests only read."""
    folder = tmp_path_factory.mktemp("model")
    config = make_text_to_image_config(folder / "dit", vae=vae, tokenizers=tokenizers, export_dtype="float32")
    even = config.model.transformer.model_copy(update={"num_layers": 4})  # diffusers' class needs an even number
    config = config.model_copy(update={"model": config.model.model_copy(update={"transformer": even})})
    train_model(config, TinySource(), **UNINTERRUPTED)
    return folder / "dit" / "export"


@pytest.fixture
def datasets_file(tmp_path) -> Path:
    """A data set file that names a folder of six square and three wide images with captions."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(9):
        width = 16 if index < 6 else 30
        levels = np.random.default_rng(index).integers(0, 256, (16, width, 3), dtype=np.uint8)
        Image.fromarray(levels).save(pictures / f"{index}.png")
        (pictures / f"{index}.txt").write_text(CAPTIONS[index % 4], encoding="utf-8")
    file = tmp_path / "datasets.toml"
    file.write_text('[[datasets]]\npath = "pictures"\n')
    return file


@pytest.fixture
def finetune_config(model: Path, datasets_file: Path) -> Callable[..., FinetuneRunConfig]:
    """`make_finetune_config` for the tiny model and its data set."""
    return partial(make_finetune_config, model=model, datasets_file=datasets_file)
