"""What one step keeps and takes: measured on small models of the real width.

The memory that a step keeps and the time that it takes grow by the same amount with every block of a kind. So models
of one, two, three ... blocks, with random weights, on the real device, precision and batch, tell what the whole one
needs.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dianjing.dit import Click, DiT
from dianjing.train.finetune.controlnet import make_controlnet, predict_controlled
from dianjing.train.finetune.encoding import ENCODERS
from dianjing.train.finetune.preparing import half_of, read_json
from dianjing.train.finetune.sections import FinetuneModel, FinetuneRun
from dianjing.train.finetune.task import prepare_transformer, resting_dtype
from dianjing.train.sets.shapes import Shape, frames_of

SMALLEST = 4  # blocks with a ControlNet, which takes an even number of them
REPEATS = 3  # of a timed step; the fastest counts


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What one step of a small model kept for its gradients, and took."""

    saved_bytes: int
    seconds: float


def anatomy(layers: int, model: FinetuneModel, *, motion_every: int) -> tuple[int, ...]:
    """How many there are in a transformer of each kind of part that costs the same."""
    kinds = [
        (layer > layers // 2, bool(model.recompute_every) and layer % model.recompute_every == 0)
        for layer in range(layers)
    ]  # of a block: has it a skip connection, is it computed twice
    blocks = [kinds.count((skips, twice)) for skips in (False, True) for twice in (False, True)]
    return 1, *blocks, layers // motion_every, layers // 2 if model.trained == "controlnet" else 0


def compose(layers: int, model: FinetuneModel, *, motion_every: int) -> dict[int, float]:
    """How a transformer of `layers` is made up of small ones: how often each takes part, by its number of blocks.

    Of plain blocks, whose second half has skip connections, one of 8 is, part by part, 3 of 3 and 1 of 2, less 3 of 1.
    """
    wanted = np.array(anatomy(layers, model, motion_every=motion_every), float)
    sizes = range(SMALLEST, layers + 1, 2) if model.trained == "controlnet" else range(motion_every, layers + 1)
    for last in range(1, len(sizes) + 1):
        parts = np.array([anatomy(n, model, motion_every=motion_every) for n in sizes[:last]], float).T
        times = np.linalg.lstsq(parts, wanted)[0]
        if np.allclose(parts @ times, wanted):
            return dict(zip(sizes, times.tolist(), strict=False))
    raise AssertionError(f"{layers} layers are made up of themselves")


def foretell(
    config: FinetuneRun, folder: Path, settings: dict[str, Any], shape: Shape, *, rows: int, device: torch.device
) -> Probe:
    """What a step of the whole model with `settings` will keep and take, with text encoders where they are trained."""
    layers = settings["num_layers"]
    motion_every = settings["motion_every"] if settings["use_motion_blocks"] else 1
    small = compose(layers, config.model, motion_every=motion_every)
    probes = [probe(config, folder, settings | {"num_layers": n}, shape, rows=rows, device=device) for n in small]
    times = small.values()
    kept = sum(count * each.saved_bytes for count, each in zip(times, probes, strict=True))
    seconds = sum(count * each.seconds for count, each in zip(times, probes, strict=True))
    if config.model.text_encoders == "joint":
        kept += text_activations(folder, rows=rows, lengths=(settings["text_len"], settings["text_len_t5"]))
    if config.model.recompute_every:  # while one block is computed again, its inside is there
        plain = config.model_copy(update={"model": config.model.model_copy(update={"recompute_every": 0})})
        kept += foretell(plain, folder, settings, shape, rows=rows, device=device).saved_bytes / layers
    return Probe(saved_bytes=round(kept), seconds=max(seconds, min(each.seconds for each in probes)))


def probe(
    config: FinetuneRun, folder: Path, settings: dict[str, Any], shape: Shape, *, rows: int, device: torch.device
) -> Probe:
    """Steps of a small model on noise."""
    torch.manual_seed(0)
    half = half_of(config)
    transformer = nn.Module.to(DiT.from_config(settings), device, resting_dtype(config.model, half))
    controlnet = make_controlnet(transformer) if config.model.trained == "controlnet" else None
    transformer = prepare_transformer(transformer, config.model, has_films=frames_of(shape) > 1)
    inputs = noise_inputs(settings, folder, shape, rows=rows, device=device, half=half)
    parts = nn.ModuleList([transformer] if controlnet is None else [transformer, controlnet.to(device)])
    own = {p.untyped_storage().data_ptr() for p in parts.parameters()}
    seconds, saved = [], 0
    for repeat in range(REPEATS):
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=half == torch.bfloat16):
            with counted(own) as storages:
                loss = predict(transformer, controlnet, inputs).float().square().mean()
            saved = sum(storages.values()) if repeat == 0 else saved
            loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
        parts.zero_grad(set_to_none=True)
    return Probe(saved_bytes=saved, seconds=min(seconds))


def predict(transformer: DiT, controlnet: Any, inputs: dict[str, Tensor]) -> Tensor:
    if controlnet is None:
        return transformer(**inputs, return_dict=False)[0]
    noisy, timestep, *_ = inputs.values()
    rest = {name: tensor for name, tensor in inputs.items() if name not in ("hidden_states", "timestep")}
    return predict_controlled(transformer, controlnet, noisy, timestep, control=noisy, inputs=rest)


def text_activations(folder: Path, *, rows: int, lengths: tuple[int, int]) -> int:
    """Bytes that both encoders keep for their gradients: from small ones of one and two layers."""
    total = 0
    for (name, kind), length in zip(ENCODERS.items(), lengths, strict=True):
        config = kind.config_class.from_pretrained(folder / name)
        kept = []
        for layers in (1, 2):
            shrunk = kind.config_class.from_pretrained(folder / name, num_hidden_layers=layers, num_layers=layers)
            encoder = kind(shrunk).eval()
            own = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
            ids = torch.ones(rows, length, dtype=torch.long)
            with counted(own) as storages:
                encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
            kept.append(sum(storages.values()))
        total += kept[0] + (config.num_hidden_layers - 1) * (kept[1] - kept[0])
    return total


@contextmanager
def counted(own: set[int]) -> Iterator[dict[int, int]]:
    """Bytes by storage of what is kept for the gradients inside, without the weights themselves."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield storages


def noise_inputs(
    settings: dict[str, Any], folder: Path, shape: Shape, *, rows: int, device: torch.device, half: torch.dtype
) -> dict[str, Any]:
    """Of the sizes that training has, in the names of `DiT.forward`."""
    vae = read_json(folder / "vae" / "config.json")
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    frames = [frames_of(shape)] if frames_of(shape) > 1 else []
    sides = shape[0] // factor, shape[1] // factor
    latents = torch.randn(rows, settings["in_channels"], *frames, *sides, device=device)
    inputs: dict[str, Any] = {"hidden_states": latents, "timestep": torch.full((rows,), 500.0, device=device)}
    for suffix in ("", "_t5"):
        length, width = settings[f"text_len{suffix}"], settings[f"cross_attention_dim{suffix}"]
        states = torch.randn(rows, length, width, device=device, dtype=half)
        mask = torch.ones(rows, length, dtype=torch.long, device=device)
        inputs |= {f"encoder_hidden_states{suffix}": states, f"text_embedding_mask{suffix}": mask}
    if frames and (regions := settings["max_regions"]):
        states, mask = inputs["encoder_hidden_states"], inputs["text_embedding_mask"]
        inputs["click"] = Click(
            first_frame=latents[:, :, 0], masks=latents.new_ones(rows, regions, *sides),
            phrases=states[:, None].repeat(1, regions, 1, 1), phrases_mask=mask[:, None].repeat(1, regions, 1),
            strengths=latents.new_ones(rows, regions),
        )  # fmt: skip
    if settings["use_style_cond_and_image_meta_size"]:
        inputs["image_meta_size"] = torch.full((rows, 6), 1024.0, device=device)
        inputs["style"] = torch.zeros(rows, dtype=torch.long, device=device)
    return inputs
