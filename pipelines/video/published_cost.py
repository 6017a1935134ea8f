"""Predicted duration of a published model's video: its operations over the speed that a device was measured at.

Operations are counted from configurations alone, on a device without memory, so that a forecast comes before weights
load. F frames, N tokens of the video, D width of the attention, H height, W width; latents are B C F Y X.
"""

import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import diffusers
import torch
from torch.utils.flop_counter import FlopCounterMode

from dianjing.pipelines.cost_model import DurationCorrection
from dianjing.pipelines.video.published_models import PublishedModel
from dianjing.weights.manifest import read_config_json
from dianjing.weights.registry import Size

NUM_TEXT_TOKENS = 512  # at most, of any of the models
# linear layers that every token of the video passes: no modulation, and none of the text's own
TOKEN_LAYERS = re.compile(r"(blocks|transformer_blocks|single_transformer_blocks)\.\d+\.(?!.*(norm|context|add_))")
TEXT_LAYERS = re.compile(r"attn2\.to_[kv]$")
VAE_PROBE_SIDE = 8  # latents
MATMUL_SIDE = 1024
MIN_PROBE_S = 0.05
EFFICIENCY = 0.6  # of a matrix product's speed that a whole step reaches: an estimate, which no run has measured


@dataclass(frozen=True, kw_only=True)
class VideoWork:
    """The work of one video: frames of width x height px, and how often its image or warped frames are encoded.

    num_passes: 2 with classifier-free guidance, else 1.
    """

    num_frames: int
    width: int
    height: int
    num_steps: int
    num_passes: int
    num_encodings: int = 0


def make_video_work(
    model: PublishedModel,
    *,
    num_frames: int,
    size: Size,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    is_guided: bool = False,
) -> VideoWork:
    """Make the work of a call of `PublishedVideoPipeline`; is_guided: by a `MotionGuide`."""
    pipeline = model.pipeline
    scale = pipeline.default_guidance_scale if guidance_scale is None else guidance_scale
    is_distilled = not pipeline.takes_negative_prompt  # its guidance scale is an input of the transformer
    return VideoWork(
        num_frames=num_frames,
        width=size[0],
        height=size[1],
        num_steps=pipeline.default_num_inference_steps if num_inference_steps is None else num_inference_steps,
        num_passes=1 if is_distilled or scale <= 1 else 2,
        num_encodings=int(model.takes_image) + 2 * is_guided,
    )


@dataclass(frozen=True, kw_only=True)
class PublishedShape:
    """The sizes of a published model that its arithmetic depends on.

    num_token_weights: of the linear layers that every token passes. latent_flops: of the autoencoder for one latent, as
    (first frame, each further frame), decoded and encoded.
    """

    num_blocks: int
    num_token_weights: int
    width: int
    patch_size: tuple[int, int]  # in time and in space
    decode_flops: tuple[float, float]
    encode_flops: tuple[float, float]

    @classmethod
    def from_model(cls, model: PublishedModel) -> "PublishedShape":
        """Count the parts of a model by its configurations."""
        transformer, config = _make_without_weights(model, model.transformer_part)
        layers = {
            name: module
            for name, module in transformer.named_modules()
            if isinstance(module, torch.nn.Linear) and TOKEN_LAYERS.match(name) and not TEXT_LAYERS.search(name)
        }
        spatial, temporal = config.get("patch_size", 1), config.get("patch_size_t", 1)
        if not isinstance(spatial, int):
            temporal, spatial = spatial[0], spatial[-1]
        vae, _ = _make_without_weights(model, "vae")
        return cls(
            num_blocks=len({".".join(name.split(".")[:2]) for name in layers}),
            num_token_weights=sum(module.weight.numel() for module in layers.values()),
            width=config["num_attention_heads"] * config["attention_head_dim"],
            patch_size=(temporal, spatial),
            decode_flops=_count_decoding(vae, model),
            encode_flops=_count_encoding(vae, model),
        )

    def count_step_flops(self, work: VideoWork, model: PublishedModel) -> float:
        """Count the operations of one step: 2 for each multiplication of a matrix product."""
        frames, rows, columns = _count_latents(work, model)
        tokens = math.ceil(frames / self.patch_size[0]) * rows * columns / self.patch_size[1] ** 2
        attention = 4 * tokens * (tokens + NUM_TEXT_TOKENS) * self.width * self.num_blocks
        return work.num_passes * (2 * tokens * self.num_token_weights + attention)

    def count_flops(self, work: VideoWork, model: PublishedModel) -> float:
        """Count the operations of a video, from its image to its pixels."""
        frames, rows, columns = _count_latents(work, model)
        decoding, encoding = (
            rows * columns * (first + (frames - 1) * further)
            for first, further in (self.decode_flops, self.encode_flops)
        )
        return work.num_steps * self.count_step_flops(work, model) + decoding + work.num_encodings * encoding


class PublishedCostModel:
    """Predicts seconds of the videos of published models on one device, and learns from the runs that it sees."""

    def __init__(self, *, device: str = "cpu", dtype: torch.dtype = torch.float32, flops_per_s: float | None = None):
        self.device, self.dtype = device, dtype
        self._flops_per_s = flops_per_s
        self._corrections: dict[str, DurationCorrection] = {}
        self._lock = threading.Lock()

    def predict_s(self, model: PublishedModel, work: VideoWork) -> float:
        """Predict the duration of a video in s, without the time in which weights load."""
        with self._lock:
            if self._flops_per_s is None:
                self._flops_per_s = EFFICIENCY * measure_matmul(self.device, self.dtype)
            shape = _get_shape(model)
        return shape.count_flops(work, model) / self._flops_per_s * self._get_correction(model).factor

    def add_run(self, model: PublishedModel, *, predicted_s: float, measured_s: float) -> None:
        """Correct the prediction of a model by a run that is over."""
        self._get_correction(model).add_run(predicted_s=predicted_s, measured_s=measured_s)

    def has_measured(self, model: PublishedModel) -> bool:
        """True once a run has corrected the predictions of a model, which are rough estimates until then."""
        return model.name in self._corrections and self._corrections[model.name].factor != 1

    def _get_correction(self, model: PublishedModel) -> DurationCorrection:
        return self._corrections.setdefault(model.name, DurationCorrection())


_get_shape = lru_cache(PublishedShape.from_model)


@torch.no_grad()
def measure_matmul(device: str, dtype: torch.dtype, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Measure the operations per s of a matrix product on a device."""
    matrix = torch.ones(MATMUL_SIDE, MATMUL_SIDE, device=device, dtype=dtype)
    repeats, seconds = 1, 0.0
    while seconds < MIN_PROBE_S:
        (matrix @ matrix)[0, 0].item()  # waits for the device
        start_s = clock()
        for _ in range(repeats):
            product = matrix @ matrix
        product[0, 0].item()
        seconds = clock() - start_s
        repeats *= 2
    return 2 * MATMUL_SIDE**3 * (repeats // 2) / seconds


def _make_without_weights(model: PublishedModel, part: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    config = read_config_json(model.folder / part / "config.json")
    with torch.device("meta"):
        module = getattr(diffusers, config["_class_name"]).from_config(config)
    return module.eval(), dict(module.config)


def _count_latents(work: VideoWork, model: PublishedModel) -> tuple[int, int, int]:
    frames = math.ceil((work.num_frames + model.num_extra_frames - 1) / model.temporal_factor) + 1
    return frames, work.height // model.spatial_factor, work.width // model.spatial_factor


def _count_decoding(vae: Any, model: PublishedModel) -> tuple[float, float]:
    side, channels = VAE_PROBE_SIDE, vae.config.get("latent_channels") or vae.config.get("z_dim")
    latents = [torch.zeros(1, channels, frames, side, side, device="meta") for frames in (1, 2)]
    return _count_per_latent(vae.decode, latents)


def _count_encoding(vae: Any, model: PublishedModel) -> tuple[float, float]:
    side = VAE_PROBE_SIDE * model.spatial_factor
    pixels = [torch.zeros(1, 3, frames, side, side, device="meta") for frames in (1, 1 + model.temporal_factor)]
    return _count_per_latent(vae.encode, pixels)


@torch.no_grad()
def _count_per_latent(run: Callable[[torch.Tensor], Any], inputs: list[torch.Tensor]) -> tuple[float, float]:
    """Count the operations for a latent of the first frame and of a further one, from inputs of one and two."""
    totals = []
    for tensor in inputs:
        with FlopCounterMode(display=False) as counter:
            run(tensor)
        totals.append(counter.get_total_flops() / VAE_PROBE_SIDE**2)
    return totals[0], totals[1] - totals[0]
