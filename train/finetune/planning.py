"""What a fine-tuning will need, before any weights load: measured on three small models of the real width.

The memory that a step keeps and the time that it takes grow by the same amount with every block. So models of one, two
and three blocks, with random weights, on the real device, precision and batch, tell what the whole one needs.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import PartialState
from torch import Tensor, nn

from dianjing.dit import Click, DiT
from dianjing.train.caches import MEMORY_BYTES
from dianjing.train.finetune.batches import texts_of
from dianjing.train.finetune.controlnet import make_controlnet, predict_controlled
from dianjing.train.finetune.encoding import ENCODERS
from dianjing.train.finetune.held_out import split
from dianjing.train.finetune.preparing import gather_pictures, half_of, is_joint, make_plan, read_json
from dianjing.train.finetune.sections import FinetuneRun
from dianjing.train.finetune.task import film_parts, prepare_transformer, resting_dtype
from dianjing.train.sets.gathering import Gathered
from dianjing.train.sets.shapes import Shape, frames_of
from dianjing.weights.fetching import find_folder
from dianjing.weights.loading import check_folder

GIB = 2**30
MOMENT_BYTES = {"adamw": 8, "adamw8bit": 2, "schedule_free": 8}  # of a parameter, beside the average
SMALLEST_8BIT = 4096  # numbers; the moments of smaller tensors stay in float32
SIZES, CONTROLNET_SIZES = (1, 2, 3), (4, 6)  # of the small models, in blocks
REPEATS = 3  # of a timed step; the fastest counts


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What one step of a small model kept for its gradients, and took."""

    saved_bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one device, in bytes and seconds."""

    trained: int  # parameters
    frozen: int
    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    cache: int  # what was read from it and stays in memory
    step_s: float

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.average + self.activations + self.cache

    def lines(self) -> Iterator[str]:
        yield f"{self.trained:,} parameters are trained, {self.frozen:,} stay as they are"
        for name in ("weights", "gradients", "optimizer", "average", "activations", "cache", "total"):
            yield f"{name:12}{getattr(self, name) / GIB:8.2f} GiB"


def estimate(
    config: FinetuneRun, folder: Path, shape: Shape, *, processes: int, device: torch.device, has_clicks: bool = False,
    encoded: int = 0,
) -> Estimate:  # fmt: skip
    """shape: in pixels, and frames, of the largest bucket; encoded: bytes of all latents and text states."""
    own = DiT.load_config(folder / "transformer")
    with torch.device("meta"):
        whole = DiT.from_config({**own, **film_parts(config, own, has_clicks=has_clicks)})
        settings = dict(whole.config)
        prepare_transformer(whole, config.model, has_films=bool(config.data.num_frames))
        parts = [whole, *([make_controlnet(whole)] if config.model.trained == "controlnet" else [])]
    if config.model.text_encoders == "joint":
        parts += text_encoders(folder)
    weights = [p for part in parts for p in part.parameters()]
    trained = sum(p.numel() for p in weights if p.requires_grad)
    frozen = sum(p.numel() for p in weights) - trained
    rows = config.run.batch_size // (config.run.accumulation * processes)
    sizes = SIZES if config.model.trained != "controlnet" else CONTROLNET_SIZES
    probes = [probe(config, folder, settings | {"num_layers": n}, shape, rows=rows, device=device) for n in sizes]
    saved, seconds = ([getattr(each, name) for each in probes] for name in ("saved_bytes", "seconds"))
    layers = settings["num_layers"]
    activations = extrapolate(saved, layers)
    if config.model.text_encoders == "joint":
        activations += text_activations(folder, rows=rows, lengths=(settings["text_len"], settings["text_len_t5"]))
    if config.model.recompute_every:  # while one block is computed again, its inside is there
        plain = config.model_copy(update={"model": config.model.model_copy(update={"recompute_every": 0})})
        inside = [
            probe(plain, folder, settings | {"num_layers": n}, shape, rows=rows, device=device).saved_bytes
            for n in sizes[-2:]
        ]
        activations += (inside[1] - inside[0]) / (sizes[-1] - sizes[-2])
    resting = torch.finfo(resting_dtype(config.model, half_of(config))).bits // 8
    moments = sum(p.numel() * moment_bytes(p, config) for p in weights if p.requires_grad)
    return Estimate(
        trained=trained, frozen=frozen, weights=4 * trained + resting * frozen, gradients=4 * trained,
        optimizer=moments, average=4 * trained, activations=int(activations),
        cache=min(encoded, MEMORY_BYTES) if device.type == "cpu" else 0,
        step_s=config.run.accumulation * max(extrapolate(seconds, layers), min(seconds)),
    )  # fmt: skip


def encoded_bytes(config: FinetuneRun, folder: Path, gathered: Gathered) -> int:
    """Of latents and text states, as the cache has them."""
    vae, transformer = (read_json(folder / part / "config.json") for part in ("vae", "transformer"))
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    pixels = sum(shape[0] * shape[1] * frames_of(shape) * len(found) for shape, found in gathered.pictures.items())
    latents = transformer["in_channels"] * pixels // factor**2 * (1 + (config.model.trained == "controlnet"))
    widths = ((transformer["text_len"], "cross_attention_dim"), (transformer["text_len_t5"], "cross_attention_dim_t5"))
    texts = texts_of([entry for found in gathered.pictures.values() for entry in found])
    states = 0 if is_joint(config) else len(texts) * sum(length * transformer[width] for length, width in widths)
    return (latents + states) * half_of(config).itemsize


def moment_bytes(weight: Tensor, config: FinetuneRun) -> int:
    return MOMENT_BYTES["adamw" if weight.numel() < SMALLEST_8BIT else config.optimizer.kind]


def extrapolate(values: list[float], layers: int) -> float:
    """From models of SIZES, of which only the third takes a skip connection, to one of `layers`.

    With a ControlNet from models of CONTROLNET_SIZES: it has blocks by twos.
    """
    if len(values) == len(CONTROLNET_SIZES):
        four, six = values
        return four + (layers - 4) / 2 * (six - four)
    one, two, three = values
    with_skip = len(range(layers // 2 + 1, layers))
    return one + (layers - 1 - with_skip) * (two - one) + with_skip * (three - two)


def probe(
    config: FinetuneRun, folder: Path, settings: dict[str, Any], shape: Shape, *, rows: int, device: torch.device
) -> Probe:
    """Steps of a small model on noise."""
    torch.manual_seed(0)
    half = half_of(config)
    transformer = DiT.from_config(settings).to(device, resting_dtype(config.model, half))
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


def text_encoders(folder: Path) -> list[nn.Module]:
    """Both, without weights; what is not trained of them is left out of the gradients."""
    with torch.device("meta"):
        bert, t5 = (kind(kind.config_class.from_pretrained(folder / name)) for name, kind in ENCODERS.items())
    bert.pooler.requires_grad_(False)
    return [bert, t5]


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


def memory_of(device: torch.device) -> int:
    """Bytes that are free now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def remedies(config: FinetuneRun, found: Estimate) -> Iterator[str]:
    """What to change where it does not fit, with what each saves at least."""
    model, run = config.model, config.run
    if model.trained == "all":
        saved = 16 * found.trained / GIB
        yield f'model.trained = "lora": about {saved:.1f} GiB less for gradients, moments and averages'
    if config.optimizer.kind == "adamw":
        yield f'optimizer.kind = "adamw8bit": up to {6 * found.trained / GIB:.1f} GiB less for moments'
    if not model.recompute_every:
        yield "model.recompute_every = 1: most of the activations less, about a third more time"
    if run.batch_size > run.accumulation:
        yield f"run.accumulation = {2 * run.accumulation}: about {found.activations / 2 / GIB:.1f} GiB less"
    if run.mixed_precision == "no":
        yield 'run.mixed_precision = "bf16": about half of the activations, and of frozen weights'
    yield "data.size_px: activations fall with its square"


def dry_run(config: FinetuneRun) -> Iterator[str]:
    """Look at the data and say, line by line, what the run will do and need.

    Raises: ValueError for data or a model that cannot be used.
    """
    here = PartialState()
    folder = find_folder(config.model.name)
    check_folder(folder)
    gathered = gather_pictures(config, folder)
    yield gathered.summary()
    yield from (f"  left out: {name}: {why}" for name, why in gathered.dropped.items())
    kept, _ = split(gathered, config.data.held_out)
    plan = make_plan(config, kept, processes=here.num_processes, rank=here.process_index)
    steps = config.run.total_steps
    yield f"{steps} steps of {config.run.batch_size} pictures: {steps / plan.epoch_steps:.1f} times through all of them"
    largest = max(gathered.pictures, key=lambda shape: shape[0] * shape[1] * frames_of(shape))
    has_clicks = any(entry.click is not None for found in gathered.pictures.values() for entry in found)
    encoded = encoded_bytes(config, folder, gathered)
    found = estimate(
        config, folder, largest, processes=here.num_processes, device=here.device, has_clicks=has_clicks,
        encoded=encoded,
    )  # fmt: skip
    yield from found.lines()
    yield f"about {found.step_s:.2g} s a step, {steps * found.step_s / 60:.3g} min in all, and the time for samples"
    free = memory_of(here.device)
    if found.total <= free:
        yield f"this fits in the {free / GIB:.1f} GiB that are free on {here.device}"
        return
    yield f"this does NOT fit in the {free / GIB:.1f} GiB that are free on {here.device}; what helps:"
    yield from (f"  {remedy}" for remedy in remedies(config, found))
