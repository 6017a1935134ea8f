"""Comparison of complete pipelines with the bundled model: text encoders, denoising, VAE.

Latents are (1, C, Y, X).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline, HunyuanDiTPipeline
from torch import Tensor
from tqdm import tqdm

from benchmarks.comparison import BenchmarkSettings, ImplementationNames, relative_l2_distance
from benchmarks.implementations import GUIDANCE_SCALE, IMAGE_STEPS
from benchmarks.model_sizes import SEED, ModelSize, make_dianjing_model, make_diffusers_model
from benchmarks.timing import Clock, Quantiles, compute_quantiles, compute_ratios, make_clock, time_call
from dianjing import TextToImagePipeline
from dianjing.pipelines.vae import decode_latents

STAGES = ("text", "denoise", "vae")
PROMPT = "草地上的一只小猫"
EMBED_NAMES = ("prompt_embeds", "negative_prompt_embeds", "prompt_attention_mask", "negative_prompt_attention_mask")


@dataclass(frozen=True, kw_only=True)
class PipelineResult:
    """Seconds of each stage and in total, and the distance of the pixels to diffusers in float32."""

    stage_s: Mapping[str, Quantiles]
    pixels_l2: float


@dataclass(frozen=True, kw_only=True)
class PipelineComparison:
    """Results of both pipelines, and the time of diffusers relative to Dianjing by stage."""

    prompt: str
    size_px: int
    num_inference_steps: int
    pairs: int
    results: Mapping[str, PipelineResult]
    ratios: Mapping[str, Quantiles]


def make_pipelines(
    size: ModelSize, bundle: TextToImagePipeline, *, dtype: torch.dtype
) -> tuple[HunyuanDiTPipeline, TextToImagePipeline]:
    """Return the pipeline of diffusers and of Dianjing over the same encoders, VAE and weights."""
    transformer = make_diffusers_model(size)
    shared = {name: part for name, part in bundle.components.items() if name not in ("transformer", "scheduler")}
    diffusers_pipe = HunyuanDiTPipeline(
        **shared, transformer=transformer, scheduler=copy.deepcopy(bundle.scheduler), requires_safety_checker=False
    )
    dianjing_pipe = TextToImagePipeline(
        **shared, transformer=make_dianjing_model(transformer), scheduler=copy.deepcopy(bundle.scheduler)
    )
    for pipe in (diffusers_pipe, dianjing_pipe):
        pipe.to(dtype)
        pipe.set_progress_bar_config(disable=True)
    return diffusers_pipe, dianjing_pipe


def encode_prompt_embeds(pipe: DiffusionPipeline) -> dict[str, Tensor]:
    """Run both text encoders; return their outputs by the argument names that both pipelines share.

    The sequence lengths are those of the model; diffusers' pipeline would use 77 and 256 for any.
    """
    config = pipe.transformer.config
    embeds: dict[str, Tensor] = {}
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
        embeds |= {f"{name}{suffix}": tensor for name, tensor in zip(EMBED_NAMES, encoded, strict=True)}
    return embeds


def denoise_latents(
    pipe: DiffusionPipeline, prompt_embeds: Mapping[str, Tensor], noise: Tensor, *, size_px: int, num_steps: int
) -> Tensor:
    """Run the denoising loop of a pipeline and return the final latents."""
    return pipe(
        **prompt_embeds,
        num_inference_steps=num_steps,
        guidance_scale=GUIDANCE_SCALE,
        height=size_px,
        width=size_px,
        latents=noise,
        output_type="latent",
        use_resolution_binning=False,
    ).images


def decode_and_postprocess(pipe: DiffusionPipeline, latents: Tensor) -> Tensor:
    """Run the VAE decoder and the conversion to PIL, which both pipelines share; return the pixels."""
    pixels = decode_latents(pipe.vae, latents)
    pipe.image_processor.postprocess(pixels, output_type="pil")
    return pixels


def time_generation(
    pipe: DiffusionPipeline, noise: Tensor, *, size_px: int, clock: Clock, num_steps: int = IMAGE_STEPS
) -> tuple[dict[str, float], Tensor]:
    """Generate one image; return the seconds of each stage, and the pixels."""
    noise = noise.to(pipe.transformer.dtype)
    text_s, prompt_embeds = time_call(lambda: encode_prompt_embeds(pipe), clock)
    denoise_s, latents = time_call(
        lambda: denoise_latents(pipe, prompt_embeds, noise, size_px=size_px, num_steps=num_steps), clock
    )
    vae_s, pixels = time_call(lambda: decode_and_postprocess(pipe, latents), clock)
    return {"text": text_s, "denoise": denoise_s, "vae": vae_s, "all": text_s + denoise_s + vae_s}, pixels


def compare_pipelines(
    size: ModelSize, load_bundle: Callable[[], TextToImagePipeline], settings: BenchmarkSettings, *, progress: tqdm
) -> PipelineComparison:
    """Generate one image with each pipeline in turn, A B A B, until there are enough pairs."""
    device, names = torch.device(settings.device), ImplementationNames(dtype=settings.dtype)
    clock = make_clock(device)
    progress.reset(total=settings.pairs)
    progress.set_description(f"{size.name}: complete pipelines")
    shape = (1, size.config["in_channels"], size.latent_size, size.latent_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(device)
    float32_pipe, _ = make_pipelines(size, load_bundle(), dtype=torch.float32)
    size_px = size.latent_size * float32_pipe.vae_scale_factor
    _, reference = time_generation(float32_pipe.to(device), noise, size_px=size_px, clock=clock)
    diffusers_pipe, dianjing_pipe = make_pipelines(size, load_bundle(), dtype=getattr(torch, settings.dtype))
    pipes = {names.diffusers: diffusers_pipe.to(device), names.dianjing: dianjing_pipe.to(device)}
    pixels = {name: time_generation(pipe, noise, size_px=size_px, clock=clock)[1] for name, pipe in pipes.items()}
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in pipes}
    for _ in range(settings.pairs):
        for name, pipe in pipes.items():
            seconds[name].append(time_generation(pipe, noise, size_px=size_px, clock=clock)[0])
        progress.update()
    by_stage = {name: _group_by_stage(runs) for name, runs in seconds.items()}
    results = {
        name: PipelineResult(
            stage_s={stage: compute_quantiles(each) for stage, each in stages.items()},
            pixels_l2=relative_l2_distance(pixels[name], reference),
        )
        for name, stages in by_stage.items()
    }
    dianjing_s = by_stage[names.dianjing]
    ratios = {
        stage: compute_quantiles(compute_ratios(each, dianjing_s[stage]))
        for stage, each in by_stage[names.diffusers].items()
    }
    return PipelineComparison(
        prompt=PROMPT,
        size_px=size_px,
        num_inference_steps=IMAGE_STEPS,
        pairs=settings.pairs,
        results=results,
        ratios=ratios,
    )


def _group_by_stage(runs: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {stage: [each[stage] for each in runs] for stage in (*STAGES, "all")}
