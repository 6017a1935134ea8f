"""Golden cases of training: a few steps of every task from the run files in runs/, and a run that is resumed."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL, HunyuanDiT2DControlNetModel, UNet2DModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertModel, T5EncoderModel

from dianjing import DiT
from dianjing.train.config.run_file import read_run_config
from dianjing.train.run import export_ema, train_model
from tests.golden.results import Results, weights

GOLDEN = Path(__file__).parent
NEEDS = {  # runs whose export another one begins with
    "pictures": "autoencoder",
    "film": "pictures",
    "field": "film",
    "lora": "pictures",
    "controlnet": "pictures",
    "whole": "pictures",
}
STEPS_BEFORE_STOP = 2


def _never() -> bool:
    return False


def run(root: Path, name: str, *, wants_stop: Callable[[], bool] = _never) -> Path:
    """Train as runs/<name>.toml says, after what that needs, and return the run's folder.

    A run that is finished under root is not made again.
    """
    folder = root / name
    if (folder / "export").exists():
        return folder
    if name in NEEDS:
        run(root, NEEDS[name])
    written = root / "runs"
    written.mkdir(exist_ok=True)
    for source in (GOLDEN / "runs").glob("*.toml"):  # all of them: some have another one as base
        content = source.read_text(encoding="utf-8").replace("{root}", str(root)).replace("{golden}", str(GOLDEN))
        (written / source.name).write_text(content, encoding="utf-8")
    train_model(read_run_config(written / f"{name}.toml"), resume="auto", should_stop=wants_stop)
    return folder


def losses(folder: Path) -> np.ndarray:
    """Loss and gradient norm of every logged step: (steps, 2)."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return np.array([[line["loss"], line["grad_norm"]] for line in lines if "loss" in line])


def _autoencoder(folder: Path) -> Results:
    vae = AutoencoderKL.from_pretrained(folder / "export" / "vae")
    return {
        "losses": losses(folder),
        "weights": weights(vae.parameters()),
        "scale": np.array(vae.config.scaling_factor),
    }


def _diffusion(folder: Path) -> Results:
    transformer: DiT = DiT.from_pretrained(folder / "export" / "transformer")
    bert = BertModel.from_pretrained(folder / "export" / "text_encoder")
    t5 = T5EncoderModel.from_pretrained(folder / "export" / "text_encoder_2")
    return {
        "losses": losses(folder),
        "weights": weights(transformer.parameters()),
        "text weights": weights(bert.parameters()),
        "text weights 2": weights(t5.parameters()),
    }


def _adapter(folder: Path) -> Results:
    tensors: dict[str, Tensor] = load_file(folder / "export" / "pytorch_lora_weights.safetensors")
    return {"losses": losses(folder), "weights": weights(tensors[name] for name in sorted(tensors))}


def autoencoder(root: Path) -> Results:
    return _autoencoder(run(root, "autoencoder"))


def principal(root: Path) -> Results:
    return _autoencoder(run(root, "principal"))


def segmenter(root: Path) -> Results:
    folder = run(root, "segmenter")
    network = UNet2DModel.from_pretrained(next((folder / "export").glob("*/config.json")).parent)
    return {"losses": losses(folder), "weights": weights(network.parameters())}


def pictures(root: Path) -> Results:
    return _diffusion(run(root, "pictures"))


def average(root: Path) -> Results:
    """The run of pictures exported again with a longer average, out of its snapshots."""
    folder = run(root, "pictures")
    export = export_ema(read_run_config(root / "runs" / "pictures.toml"), 0.2)
    transformer: DiT = DiT.from_pretrained(export / "transformer")
    return {"losses": losses(folder), "weights": weights(transformer.parameters())}


def film(root: Path) -> Results:
    return _diffusion(run(root, "film"))


def field(root: Path) -> Results:
    return _diffusion(run(root, "field"))


def lora(root: Path) -> Results:
    return _adapter(run(root, "lora"))


def whole(root: Path) -> Results:
    return _diffusion(run(root, "whole"))


def controlnet(root: Path) -> Results:
    folder = run(root, "controlnet")
    net = HunyuanDiT2DControlNetModel.from_pretrained(folder / "export")
    return {"losses": losses(folder), "weights": weights(net.parameters())}


def resumed(root: Path, name: str) -> Path:
    """The folder of a run that was stopped after STEPS_BEFORE_STOP steps and then went on."""
    again = root / "again"
    again.mkdir(exist_ok=True)
    before = again / NEEDS[name] if name in NEEDS else None
    if before is not None and not before.exists():
        before.symlink_to(run(root, NEEDS[name]), target_is_directory=True)
    steps = count(1)
    folder = run(again, name, wants_stop=lambda: next(steps) == STEPS_BEFORE_STOP)
    assert not (folder / "export").exists(), "the first half was stopped"
    assert len(losses(folder)) == STEPS_BEFORE_STOP
    return run(again, name)


def resumed_autoencoder(root: Path) -> Results:
    return _autoencoder(resumed(root, "autoencoder"))


def resumed_film(root: Path) -> Results:
    return _diffusion(resumed(root, "film"))


def resumed_lora(root: Path) -> Results:
    return _adapter(resumed(root, "lora"))
