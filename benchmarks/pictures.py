"""Whole pictures of the embedded model, through both pipelines: text, denoising, VAE.

B batch of pictures, with B = 1; latents are B C Y X.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline, HunyuanDiTPipeline
from torch import Tensor
from tqdm import tqdm

from benchmarks.contenders import GUIDANCE_SCALE, PICTURE_STEPS
from benchmarks.deviation import relative_l2
from benchmarks.measure import Names, Settings
from benchmarks.sizes import SEED, Size, make_ours, make_theirs
from benchmarks.timing import Clock, Spread, make_clock, ratios, spread, timed
from dianjing import TextToImagePipeline
from dianjing.pipelines.latents import decode_latents

STAGES = ("text", "denoise", "vae")
PROMPT = "草地上的一只小猫"
PARTS = ("prompt_embeds", "negative_prompt_embeds", "prompt_attention_mask", "negative_prompt_attention_mask")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Seconds of each stage and of all, and how far the picture is from diffusers' in float32."""

    stage_s: Mapping[str, Spread]
    pixels_l2: float


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Both pipelines, and how many times as long theirs takes."""

    prompt: str
    size_px: int
    steps: int
    pairs: int
    pictures: Mapping[str, Picture]
    ratios: Mapping[str, Spread]


def make_pipelines(
    size: Size, bundle: TextToImagePipeline, *, dtype: torch.dtype
) -> tuple[HunyuanDiTPipeline, TextToImagePipeline]:
    """Theirs and ours over the same encoders, VAE and weights."""
    transformer = make_theirs(size)
    shared = {name: part for name, part in bundle.components.items() if name not in ("transformer", "scheduler")}
    theirs = HunyuanDiTPipeline(
        **shared, transformer=transformer, scheduler=copy.deepcopy(bundle.scheduler), requires_safety_checker=False
    )
    ours = TextToImagePipeline(
        **shared, transformer=make_ours(transformer), scheduler=copy.deepcopy(bundle.scheduler)
    )  # fmt: skip
    for pipe in (theirs, ours):
        pipe.to(dtype)
        pipe.set_progress_bar_config(disable=True)
    return theirs, ours


def read(pipe: DiffusionPipeline) -> dict[str, Tensor]:
    """The text stage: both encoders, as both pipelines name what comes out.

    Theirs asks for 77 and 256 tokens whatever the model; the model's own lengths are given here.
    """
    config = pipe.transformer.config
    found: dict[str, Tensor] = {}
    for index, (suffix, length) in enumerate((("", config.text_len), ("_2", config.text_len_t5))):
        encoded = pipe.encode_prompt(
            prompt=PROMPT,
            device=pipe.device,
            dtype=pipe.transformer.dtype,
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
            max_sequence_length=length,
            text_encoder_index=index,
        )
        found |= {f"{part}{suffix}": tensor for part, tensor in zip(PARTS, encoded, strict=True)}
    return found


def denoise(
    pipe: DiffusionPipeline, text: Mapping[str, Tensor], noise: Tensor, *, size_px: int, steps: int
) -> Tensor:  # fmt: skip
    settings: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": GUIDANCE_SCALE}
    return pipe(
        **text, **settings, height=size_px, width=size_px, latents=noise, output_type="latent",
        use_resolution_binning=False,
    ).images  # fmt: skip


def decode(pipe: DiffusionPipeline, latents: Tensor) -> Tensor:
    """The VAE stage, which both pipelines do alike: pixels, and a PIL image that is thrown away."""
    pixels = decode_latents(pipe.vae, latents)
    pipe.image_processor.postprocess(pixels, output_type="pil")
    return pixels


def draw(
    pipe: DiffusionPipeline, noise: Tensor, *, size_px: int, clock: Clock, steps: int = PICTURE_STEPS
) -> tuple[dict[str, float], Tensor]:
    """Seconds of each stage, and the pixels."""
    noise = noise.to(pipe.transformer.dtype)
    text_s, text = timed(lambda: read(pipe), clock)
    denoise_s, latents = timed(lambda: denoise(pipe, text, noise, size_px=size_px, steps=steps), clock)
    vae_s, pixels = timed(lambda: decode(pipe, latents), clock)
    return {"text": text_s, "denoise": denoise_s, "vae": vae_s, "all": text_s + denoise_s + vae_s}, pixels


def measure_pictures(
    size: Size, load_bundle: Callable[[], TextToImagePipeline], settings: Settings, *, progress: tqdm
) -> Pictures:
    """Draw one picture with each pipeline in turn, A B A B, until there are enough pairs."""
    device, names = torch.device(settings.device), Names(dtype=settings.dtype)
    clock = make_clock(device)
    progress.reset(total=settings.pairs)
    progress.set_description(f"{size.name}: whole pictures")
    shape = (1, size.config["in_channels"], size.latents_side, size.latents_side)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(device)
    exact, _ = make_pipelines(size, load_bundle(), dtype=torch.float32)
    size_px = size.latents_side * exact.vae_scale_factor
    _, reference = draw(exact.to(device), noise, size_px=size_px, clock=clock)
    theirs, ours = make_pipelines(size, load_bundle(), dtype=getattr(torch, settings.dtype))
    pipes = {names.stock: theirs.to(device), names.ours: ours.to(device)}
    ends = {name: draw(pipe, noise, size_px=size_px, clock=clock)[1] for name, pipe in pipes.items()}
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in pipes}
    for _ in range(settings.pairs):
        for name, pipe in pipes.items():
            seconds[name].append(draw(pipe, noise, size_px=size_px, clock=clock)[0])
        progress.update()
    by_stage = {name: _by_stage(drawn) for name, drawn in seconds.items()}
    pictures = {
        name: Picture(
            stage_s={stage: spread(each) for stage, each in stages.items()},
            pixels_l2=relative_l2(ends[name], reference),
        )
        for name, stages in by_stage.items()
    }
    mine = by_stage[names.ours]
    compared = {stage: spread(ratios(each, mine[stage])) for stage, each in by_stage[names.stock].items()}
    return Pictures(
        prompt=PROMPT, size_px=size_px, steps=PICTURE_STEPS, pairs=settings.pairs, pictures=pictures, ratios=compared
    )


def _by_stage(drawn: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {stage: [each[stage] for each in drawn] for stage in (*STAGES, "all")}
