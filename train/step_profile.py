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

from dianjing.dit import DiT, MotionControl
from dianjing.train.config.finetune import FinetuneModelConfig, FinetuneRunConfig
from dianjing.train.data.buckets import BucketShape, get_num_frames
from dianjing.train.data.latent_cache import TEXT_ENCODER_CLASSES
from dianjing.train.data.preparation import get_compute_dtype, read_json
from dianjing.train.tasks.controlnet import init_controlnet, predict_with_controlnet
from dianjing.train.tasks.finetune_model import get_storage_dtype, prepare_transformer

MIN_CONTROLNET_BLOCKS = 4  # blocks with a ControlNet, which takes an even number of them
NUM_REPEATS = 3  # of a timed step; the fastest counts


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """What one step of a small model kept for its gradients, and took."""

    saved_bytes: int
    seconds: float


def count_blocks(layers: int, model: FinetuneModelConfig, *, motion_block_interval: int) -> tuple[int, ...]:
    """How many there are in a transformer of each kind of part that costs the same."""
    kinds = [
        (
            layer > layers // 2,
            bool(model.gradient_checkpointing_interval) and layer % model.gradient_checkpointing_interval == 0,
        )
        for layer in range(layers)
    ]  # of a block: has it a skip connection, is it computed twice
    blocks = [kinds.count((skips, twice)) for skips in (False, True) for twice in (False, True)]
    return 1, *blocks, layers // motion_block_interval, layers // 2 if model.trainable == "controlnet" else 0


def fit_block_counts(layers: int, model: FinetuneModelConfig, *, motion_block_interval: int) -> dict[int, float]:
    """How a transformer of `layers` is made up of small ones: how often each takes part, by its number of blocks.

    Of plain blocks, whose second half has skip connections, one of 8 is, part by part, 3 of 3 and 1 of 2, less 3 of 1.
    """
    wanted = np.array(count_blocks(layers, model, motion_block_interval=motion_block_interval), float)
    sizes = (
        range(MIN_CONTROLNET_BLOCKS, layers + 1, 2)
        if model.trainable == "controlnet"
        else range(motion_block_interval, layers + 1)
    )
    for last in range(1, len(sizes) + 1):
        parts = np.array(
            [count_blocks(n, model, motion_block_interval=motion_block_interval) for n in sizes[:last]], float
        ).T
        times = np.linalg.lstsq(parts, wanted)[0]
        if np.allclose(parts @ times, wanted):
            return dict(zip(sizes, times.tolist(), strict=False))
    raise AssertionError(f"{layers} layers are made up of themselves")


def extrapolate_step(
    config: FinetuneRunConfig,
    folder: Path,
    transformer_config: dict[str, Any],
    shape: BucketShape,
    *,
    batch_size: int,
    device: torch.device,
) -> StepProfile:
    """What a step of the whole model with `settings` will keep and take, with text encoders where they are trained."""
    layers = transformer_config["num_layers"]
    motion_every = transformer_config["motion_block_interval"] if transformer_config["use_motion_blocks"] else 1
    small = fit_block_counts(layers, config.model, motion_block_interval=motion_every)
    probes = [
        profile_step(
            config, folder, transformer_config | {"num_layers": n}, shape, batch_size=batch_size, device=device
        )
        for n in small
    ]
    times = small.values()
    kept = sum(count * each.saved_bytes for count, each in zip(times, probes, strict=True))
    seconds = sum(count * each.seconds for count, each in zip(times, probes, strict=True))
    if config.model.text_encoders == "joint":
        kept += measure_text_activations(
            folder, batch_size=batch_size, lengths=(transformer_config["text_len"], transformer_config["text_len_t5"])
        )
    if config.model.gradient_checkpointing_interval:  # while one block is computed again, its inside is there
        plain = config.model_copy(
            update={"model": config.model.model_copy(update={"gradient_checkpointing_interval": 0})}
        )
        kept += (
            extrapolate_step(plain, folder, transformer_config, shape, batch_size=batch_size, device=device).saved_bytes
            / layers
        )
    return StepProfile(saved_bytes=round(kept), seconds=max(seconds, min(each.seconds for each in probes)))


def profile_step(
    config: FinetuneRunConfig,
    folder: Path,
    transformer_config: dict[str, Any],
    shape: BucketShape,
    *,
    batch_size: int,
    device: torch.device,
) -> StepProfile:
    """Steps of a small model on noise."""
    torch.manual_seed(0)
    half = get_compute_dtype(config)
    transformer = nn.Module.to(DiT.from_config(transformer_config), device, get_storage_dtype(config.model, half))
    controlnet = init_controlnet(transformer) if config.model.trainable == "controlnet" else None
    transformer = prepare_transformer(transformer, config.model, has_video=get_num_frames(shape) > 1)
    inputs = make_random_inputs(
        transformer_config, folder, shape, batch_size=batch_size, device=device, compute_dtype=half
    )
    parts = nn.ModuleList([transformer] if controlnet is None else [transformer, controlnet.to(device)])
    own = {p.untyped_storage().data_ptr() for p in parts.parameters()}
    seconds, saved = [], 0
    for repeat in range(NUM_REPEATS):
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=half == torch.bfloat16):
            with track_saved(own) as storages:
                loss = run_transformer(transformer, controlnet, inputs).float().square().mean()
            saved = sum(storages.values()) if repeat == 0 else saved
            loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
        parts.zero_grad(set_to_none=True)
    return StepProfile(saved_bytes=saved, seconds=min(seconds))


def run_transformer(transformer: DiT, controlnet: Any, inputs: dict[str, Tensor]) -> Tensor:
    if controlnet is None:
        return transformer(**inputs, return_dict=False)[0]
    noisy, timestep, *_ = inputs.values()
    rest = {name: tensor for name, tensor in inputs.items() if name not in ("hidden_states", "timestep")}
    return predict_with_controlnet(transformer, controlnet, noisy, timestep, control=noisy, inputs=rest)


def measure_text_activations(folder: Path, *, batch_size: int, lengths: tuple[int, int]) -> int:
    """Bytes that both encoders keep for their gradients: from small ones of one and two layers."""
    total = 0
    for (name, kind), length in zip(TEXT_ENCODER_CLASSES.items(), lengths, strict=True):
        config = kind.config_class.from_pretrained(folder / name)
        kept = []
        for layers in (1, 2):
            shrunk = kind.config_class.from_pretrained(folder / name, num_hidden_layers=layers, num_layers=layers)
            encoder = kind(shrunk).eval()
            own = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
            ids = torch.ones(batch_size, length, dtype=torch.long)
            with track_saved(own) as storages:
                encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
            kept.append(sum(storages.values()))
        total += kept[0] + (config.num_hidden_layers - 1) * (kept[1] - kept[0])
    return total


@contextmanager
def track_saved(parameter_storages: set[int]) -> Iterator[dict[int, int]]:
    """Bytes by storage of what is kept for the gradients inside, without the weights themselves."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameter_storages:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield storages


def make_random_inputs(
    transformer_config: dict[str, Any],
    folder: Path,
    shape: BucketShape,
    *,
    batch_size: int,
    device: torch.device,
    compute_dtype: torch.dtype,
) -> dict[str, Any]:
    """Of the sizes that training has, in the names of `DiT.forward`."""
    vae = read_json(folder / "vae" / "config.json")
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    frames = [get_num_frames(shape)] if get_num_frames(shape) > 1 else []
    sides = shape[0] // factor, shape[1] // factor
    latents = torch.randn(batch_size, transformer_config["in_channels"], *frames, *sides, device=device)
    inputs: dict[str, Any] = {"hidden_states": latents, "timestep": torch.full((batch_size,), 500.0, device=device)}
    for suffix in ("", "_t5"):
        length, width = transformer_config[f"text_len{suffix}"], transformer_config[f"cross_attention_dim{suffix}"]
        states = torch.randn(batch_size, length, width, device=device, dtype=compute_dtype)
        mask = torch.ones(batch_size, length, dtype=torch.long, device=device)
        inputs |= {f"encoder_hidden_states{suffix}": states, f"text_embedding_mask{suffix}": mask}
    if frames and (regions := transformer_config["max_regions"]):
        states, mask = inputs["encoder_hidden_states"], inputs["text_embedding_mask"]
        inputs["motion_control"] = MotionControl(
            first_frame=latents[:, :, 0],
            masks=latents.new_ones(batch_size, regions, *sides),
            phrase_embeds=states[:, None].repeat(1, regions, 1, 1),
            phrase_mask=mask[:, None].repeat(1, regions, 1),
            strengths=latents.new_ones(batch_size, regions),
        )
    if transformer_config["use_style_cond_and_image_meta_size"]:
        inputs["image_meta_size"] = torch.full((batch_size, 6), 1024.0, device=device)
        inputs["style"] = torch.zeros(batch_size, dtype=torch.long, device=device)
    return inputs
