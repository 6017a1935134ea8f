"""Memory and time of a training step, extrapolated from small models of the full width.

Activations and time grow linearly with the number of blocks of each type. So steps of models with few blocks and random
weights, on the real device, with the real precision and batch size, determine those of the full model.
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
from dianjing.train.data.preparation import read_json
from dianjing.train.tasks.controlnet import init_controlnet, predict_with_controlnet
from dianjing.train.tasks.finetune_model import get_storage_dtype, prepare_transformer
from dianjing.weights.image_sizes import get_scale_factor

MIN_CONTROLNET_BLOCKS = 4  # a ControlNet needs an even number of blocks, 4 or more
NUM_REPEATS = 3  # of a timed step; the fastest counts


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """Bytes that a step saves for the backward pass, and its duration."""

    saved_bytes: int
    seconds: float


def count_blocks(num_layers: int, model: FinetuneModelConfig, *, motion_block_interval: int) -> tuple[int, ...]:
    """Numbers of the parts with equal costs in a transformer.

    They are: fixed parts (1), blocks with or without skip connection and gradient checkpointing (4 numbers), motion
    blocks, ControlNet blocks.
    """
    interval = model.gradient_checkpointing_interval
    types = [(layer > num_layers // 2, interval > 0 and layer % interval == 0) for layer in range(num_layers)]
    counts = [types.count((skip, checkpointed)) for skip in (False, True) for checkpointed in (False, True)]
    num_controlnet_blocks = num_layers // 2 if model.trainable == "controlnet" else 0
    return 1, *counts, num_layers // motion_block_interval, num_controlnet_blocks


def fit_block_counts(num_layers: int, model: FinetuneModelConfig, *, motion_block_interval: int) -> dict[int, float]:
    """Express a transformer as a linear combination of small ones: their coefficients by number of layers.

    With plain blocks, whose second half has skip connections: cost(8 layers) = 3 cost(3) + cost(2) - 3 cost(1).
    """

    def count(layers: int) -> tuple[int, ...]:
        return count_blocks(layers, model, motion_block_interval=motion_block_interval)

    target = np.array(count(num_layers), float)
    sizes = range(motion_block_interval, num_layers + 1)
    if model.trainable == "controlnet":
        sizes = range(MIN_CONTROLNET_BLOCKS, num_layers + 1, 2)
    for num_sizes in range(1, len(sizes) + 1):
        counts = np.array([count(layers) for layers in sizes[:num_sizes]], float).T
        coefficients = np.linalg.lstsq(counts, target)[0]
        if np.allclose(counts @ coefficients, target):
            return dict(zip(sizes, coefficients.tolist(), strict=False))
    raise AssertionError(f"{num_layers} layers are a combination of themselves")


def extrapolate_step(
    config: FinetuneRunConfig,
    folder: Path,
    transformer_config: dict[str, Any],
    shape: BucketShape,
    *,
    batch_size: int,
    device: torch.device,
) -> StepProfile:
    """Profile a step of the full model, including the text encoders if they are trained."""
    num_layers = transformer_config["num_layers"]
    interval = transformer_config["motion_block_interval"] if transformer_config.get("use_motion_blocks") else 1
    coefficients = fit_block_counts(num_layers, config.model, motion_block_interval=interval)
    profiles = [
        profile_step(
            config, folder, transformer_config | {"num_layers": n}, shape, batch_size=batch_size, device=device
        )
        for n in coefficients
    ]
    pairs = list(zip(coefficients.values(), profiles, strict=True))
    saved_bytes = sum(coefficient * profile.saved_bytes for coefficient, profile in pairs)
    seconds = sum(coefficient * profile.seconds for coefficient, profile in pairs)
    if config.trains_text_encoders:
        lengths = (transformer_config["text_len"], transformer_config["text_len_t5"])
        saved_bytes += measure_text_activations(folder, batch_size=batch_size, lengths=lengths)
    if config.model.gradient_checkpointing_interval:  # recomputing a block saves the activations of that block
        changes = {"model": config.model.model_copy(update={"gradient_checkpointing_interval": 0})}
        full = extrapolate_step(
            config.model_copy(update=changes), folder, transformer_config, shape, batch_size=batch_size, device=device
        )
        saved_bytes += full.saved_bytes / num_layers
    min_seconds = min(profile.seconds for profile in profiles)
    return StepProfile(saved_bytes=round(saved_bytes), seconds=max(seconds, min_seconds))


def profile_step(
    config: FinetuneRunConfig,
    folder: Path,
    transformer_config: dict[str, Any],
    shape: BucketShape,
    *,
    batch_size: int,
    device: torch.device,
) -> StepProfile:
    """Profile a step of a small model on random inputs."""
    torch.manual_seed(0)
    compute_dtype = config.run.compute_dtype
    dtype = get_storage_dtype(config.model, compute_dtype)
    transformer = nn.Module.to(DiT.from_config(transformer_config), device, dtype)
    controlnet = init_controlnet(transformer) if config.model.trainable == "controlnet" else None
    transformer = prepare_transformer(transformer, config.model, has_video=get_num_frames(shape) > 1)
    inputs = make_random_inputs(
        transformer_config, folder, shape, batch_size=batch_size, device=device, compute_dtype=compute_dtype
    )
    modules = nn.ModuleList([transformer] if controlnet is None else [transformer, controlnet.to(device)])
    parameter_storages = {p.untyped_storage().data_ptr() for p in modules.parameters()}
    durations, saved_bytes = [], 0
    for repeat in range(NUM_REPEATS):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=compute_dtype == torch.bfloat16):
            with track_saved(parameter_storages) as storages:
                loss = run_transformer(transformer, controlnet, inputs).float().square().mean()
            saved_bytes = sum(storages.values()) if repeat == 0 else saved_bytes
            loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        durations.append(time.perf_counter() - start)
        modules.zero_grad(set_to_none=True)
    return StepProfile(saved_bytes=saved_bytes, seconds=min(durations))


def run_transformer(transformer: DiT, controlnet: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The prediction of a transformer, with a ControlNet if one is given."""
    if controlnet is None:
        return transformer(**inputs, return_dict=False)[0]
    latents, timestep = inputs["hidden_states"], inputs["timestep"]
    others = {name: tensor for name, tensor in inputs.items() if name not in ("hidden_states", "timestep")}
    return predict_with_controlnet(transformer, controlnet, latents, timestep, control=latents, inputs=others)


def measure_text_activations(folder: Path, *, batch_size: int, lengths: tuple[int, int]) -> int:
    """Bytes that both text encoders save for the backward pass, extrapolated from one and two layers."""
    total = 0
    for (name, encoder_class), length in zip(TEXT_ENCODER_CLASSES.items(), lengths, strict=True):
        config_class = encoder_class.config_class
        saved_bytes = []
        for layers in (1, 2):
            encoder = encoder_class(
                config_class.from_pretrained(folder / name, num_hidden_layers=layers, num_layers=layers)
            ).eval()
            parameter_storages = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
            ids = torch.ones(batch_size, length, dtype=torch.long)
            with track_saved(parameter_storages) as storages:
                encoder(input_ids=ids, attention_mask=torch.ones_like(ids))
            saved_bytes.append(sum(storages.values()))
        num_layers = config_class.from_pretrained(folder / name).num_hidden_layers
        total += saved_bytes[0] + (num_layers - 1) * (saved_bytes[1] - saved_bytes[0])
    return total


@contextmanager
def track_saved(parameter_storages: set[int]) -> Iterator[dict[int, int]]:
    """A context that collects the storages saved for the backward pass: bytes by address, without parameters."""
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
    """Arguments of `DiT.forward` with the shapes of training."""
    vae = read_json(folder / "vae" / "config.json")
    factor = get_scale_factor(vae)
    frames = [get_num_frames(shape)] if get_num_frames(shape) > 1 else []
    sides = shape[0] // factor, shape[1] // factor
    latents = torch.randn(batch_size, transformer_config["in_channels"], *frames, *sides, device=device)
    inputs: dict[str, Any] = {"hidden_states": latents, "timestep": torch.full((batch_size,), 500.0, device=device)}
    for suffix in ("", "_t5"):
        length, width = transformer_config[f"text_len{suffix}"], transformer_config[f"cross_attention_dim{suffix}"]
        states = torch.randn(batch_size, length, width, device=device, dtype=compute_dtype)
        mask = torch.ones(batch_size, length, dtype=torch.long, device=device)
        inputs |= {f"encoder_hidden_states{suffix}": states, f"text_embedding_mask{suffix}": mask}
    if frames and (max_regions := transformer_config.get("max_regions")):
        states, mask = inputs["encoder_hidden_states"], inputs["text_embedding_mask"]
        inputs["motion_control"] = MotionControl(
            first_frame=latents[:, :, 0],
            masks=latents.new_ones(batch_size, max_regions, *sides),
            phrase_embeds=states[:, None].repeat(1, max_regions, 1, 1),
            phrase_mask=mask[:, None].repeat(1, max_regions, 1),
            strengths=latents.new_ones(batch_size, max_regions),
        )
    if transformer_config["use_style_cond_and_image_meta_size"]:
        inputs["image_meta_size"] = torch.full((batch_size, 6), 1024.0, device=device)
        inputs["style"] = torch.zeros(batch_size, dtype=torch.long, device=device)
    return inputs
