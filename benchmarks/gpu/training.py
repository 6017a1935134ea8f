"""One training step on images: LoRA or all weights, with and without checkpointing, for both implementations.

Computation is in bfloat16 by autocast. Trained weights and their moments are float32, as in Dianjing's trainer; with
LoRA the frozen weights are bfloat16. Latents are (B, C, Y, X).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from benchmarks.gpu.meter import TimeBudget
from benchmarks.gpu.models import DTYPE, compile_blocks, count_forward_flops, make_random_transformer, share_with_dit
from benchmarks.gpu.runner import COMPILE_S, SKIPPED, GpuBenchmark, Results, describe_failure
from benchmarks.gpu.steps import make_step_inputs
from benchmarks.implementations import cast_prompt_embeds, make_diffusers_inputs
from benchmarks.timing import compute_quantiles
from dianjing.dit import DiT
from dianjing.pipelines.denoiser import make_model_inputs

RANK = 16
LORA_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
LEARNING_RATE = 1e-5
WARMUP_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class TrainingVariant:
    """One way to train: which weights, of which model, with which options."""

    trained: str  # "lora" or "all"
    is_dianjing: bool = True
    has_checkpointing: bool = False
    is_compiled: bool = False

    @property
    def name(self) -> str:
        marks = [" checkpointed"] * self.has_checkpointing + [" compiled blocks"] * self.is_compiled
        return ",".join([f"{'dianjing' if self.is_dianjing else 'diffusers'} {self.trained}", *marks])

    @property
    def forwards(self) -> int:
        """Operations of a step in units of a forward pass: gradients of the weights take one if all are trained."""
        return 3 if self.trained == "all" else 2


TRAINING_VARIANTS = (
    TrainingVariant(trained="lora"),
    TrainingVariant(trained="all"),
    TrainingVariant(trained="all", is_dianjing=False),
    TrainingVariant(trained="lora", is_dianjing=False),
    TrainingVariant(trained="lora", has_checkpointing=True),
    TrainingVariant(trained="all", has_checkpointing=True),
    TrainingVariant(trained="all", is_compiled=True),
)


def measure_training(benchmark: GpuBenchmark, share: TimeBudget) -> Iterator[Results]:
    """Measure samples per second and peak memory of each variant, with a new model."""
    benchmark.release()
    scale = benchmark.scale
    forward = count_forward_flops(scale, scale.training_px)
    results: Results = {
        "size_px": scale.training_px,
        "batch_size": scale.training_batch_size,
        "optimizer": "AdamW, fused",
        "rank": RANK,
        "variants": {},
    }
    for variant in TRAINING_VARIANTS:
        if not share.has(0) or (variant.is_compiled and not benchmark.budget.has(COMPILE_S)):
            results["variants"][variant.name] = SKIPPED
            continue
        flops = variant.forwards * scale.training_batch_size * forward
        min_s = benchmark.get_min_s(flops)
        try:
            results["variants"][variant.name] = {"flops": flops, "min_s": min_s, **_measure(benchmark, variant)}
        except Exception as error:
            results["variants"][variant.name] = describe_failure(error)
        torch.compiler.reset()
        benchmark.meter.clear()
        yield results


def _measure(benchmark: GpuBenchmark, variant: TrainingVariant) -> Results:
    meter, batch_size = benchmark.meter, benchmark.scale.training_batch_size
    meter.clear()
    before_gib = meter.memory()["allocated_gib"]
    model = make_training_model(benchmark, variant)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, fused=True)
    inputs = make_training_inputs(benchmark, model)
    generator = torch.Generator(benchmark.device).manual_seed(0)
    shape = (batch_size, benchmark.scale.transformer["in_channels"], *(benchmark.scale.training_px // 8,) * 2)

    def step() -> Tensor:
        noisy, target = (torch.randn(shape, generator=generator, device=benchmark.device) for _ in range(2))
        timestep = torch.randint(0, 1000, (batch_size,), generator=generator, device=benchmark.device).float()
        with torch.autocast(benchmark.device.type, DTYPE):
            predicted = model(noisy, timestep, **inputs, return_dict=False)[0]
        loss = F.mse_loss(predicted[:, : shape[1]].float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    first_s, _ = meter.time(step)
    for _ in range(WARMUP_STEPS - 1):
        step()
    meter.clear()
    timed = [meter.time(step) for _ in range(benchmark.scale.training_steps)]
    seconds = compute_quantiles([each for each, _ in timed])
    return {
        "allocated_before_gib": before_gib,
        **{name: value for name, value in meter.memory().items() if name != "allocated_gib"},
        "trained_parameters": sum(weight.numel() for weight in weights),
        "first_step_s": first_s,
        "step_s": asdict(seconds),
        "samples_per_s": batch_size / seconds.median,
        "is_finite": bool(torch.stack([loss for _, loss in timed]).isfinite().all()),
    }


def make_training_model(benchmark: GpuBenchmark, variant: TrainingVariant) -> Any:
    """Create the model of a variant on the device, with trainable parameters in float32."""
    model: nn.Module = make_random_transformer(benchmark.scale, benchmark.device)
    if variant.is_dianjing:
        model = share_with_dit(model)
    if variant.trained == "all":
        model.float().requires_grad_(True)
    else:
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LORA_TARGETS)
        inject_adapter_in_model(config, model)
        cast_training_params(model, dtype=torch.float32)
    if variant.has_checkpointing:
        model.enable_gradient_checkpointing()
    if variant.is_compiled:
        compile_blocks(model, benchmark.scale)
    return model.train()


def make_training_inputs(benchmark: GpuBenchmark, model: Any) -> dict[str, Any]:
    """Return random text for a batch, with the rotary embedding if the model takes it as an argument."""
    denoising_inputs = make_step_inputs(benchmark, benchmark.scale.training_px)
    if isinstance(model, DiT):
        inputs = make_model_inputs(
            model,
            cast_prompt_embeds(denoising_inputs.prompt_embeds, DTYPE),
            guided=False,
            image_meta_size=denoising_inputs.image_meta_size,
            device=benchmark.device,
        )
    else:
        inputs = make_diffusers_inputs(model, denoising_inputs, DTYPE)
        for name in ("image_meta_size", "style"):
            inputs.pop(name)
    batch_size = benchmark.scale.training_batch_size
    return {
        name: torch.cat([value[:1]] * batch_size) if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }
