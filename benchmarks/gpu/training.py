"""One training step on pictures: LoRA or all weights, activations kept or recomputed, diffusers' model beside ours.

bfloat16 arithmetic by autocast. All weights are float32 with their moments, as the trainer keeps them; with LoRA the
weights at rest are bfloat16 and only the adapters float32. B batch; latents are B C Y X.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from benchmarks.contenders import Case, text_as, their_inputs
from benchmarks.gpu.bench import COMPILE_S, LEFT_OUT, Bench, Found, failure
from benchmarks.gpu.meter import Budget
from benchmarks.gpu.models import DTYPE, compile_blocks, forward_flops, make_theirs, our_copy
from benchmarks.gpu.steps import make_step_case
from benchmarks.timing import spread
from dianjing.dit import DiT
from dianjing.pipelines.prediction import model_inputs

RANK = 16
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
LEARNING_RATE = 1e-5
WARM_UP = 2


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to train: which weights, of which model, with which savings."""

    trained: str  # "lora" or "all"
    is_ours: bool = True
    is_recomputed: bool = False  # gradient checkpointing
    is_compiled: bool = False

    @property
    def name(self) -> str:
        marks = [" recomputed"] * self.is_recomputed + [" compiled blocks"] * self.is_compiled
        return ",".join([f"{'dianjing' if self.is_ours else 'diffusers'} {self.trained}", *marks])

    @property
    def forwards(self) -> int:
        """Operations of a step in forwards: the weights' gradients cost one only where they are wanted."""
        return 3 if self.trained == "all" else 2


ROWS = (
    Row(trained="lora"),
    Row(trained="all"),
    Row(trained="all", is_ours=False),
    Row(trained="lora", is_ours=False),
    Row(trained="lora", is_recomputed=True),
    Row(trained="all", is_recomputed=True),
    Row(trained="all", is_compiled=True),
)


def measure_training(bench: Bench, share: Budget) -> Iterator[Found]:
    """Samples per second and peak memory of each row, whose model is made for it alone."""
    bench.release()
    scale = bench.scale
    forward = forward_flops(scale, scale.training_px)
    found: Found = {
        "size_px": scale.training_px, "batch_size": scale.training_batch_size, "optimizer": "AdamW, fused",
        "rank": RANK, "rows": {},
    }  # fmt: skip
    for row in ROWS:
        if not share.has(0) or (row.is_compiled and not bench.budget.has(COMPILE_S)):
            found["rows"][row.name] = LEFT_OUT
            continue
        flops = row.forwards * scale.training_batch_size * forward
        floor_s = bench.floor_s(flops)
        try:
            found["rows"][row.name] = {"flops": flops, "floor_s": floor_s, **_measure(bench, row)}
        except Exception as error:
            found["rows"][row.name] = failure(error)
        torch.compiler.reset()
        bench.meter.clear()
        yield found


def _measure(bench: Bench, row: Row) -> Found:
    meter, batch_size = bench.meter, bench.scale.training_batch_size
    meter.clear()
    before = meter.memory()["allocated_gib"]
    model = make_model(bench, row)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, fused=True)
    inputs = make_inputs(bench, model)
    generator = torch.Generator(bench.device).manual_seed(0)
    shape = (batch_size, bench.scale.transformer["in_channels"], *(bench.scale.training_px // 8,) * 2)

    def step() -> Tensor:
        noisy, target = (torch.randn(shape, generator=generator, device=bench.device) for _ in range(2))
        timestep = torch.randint(0, 1000, (batch_size,), generator=generator, device=bench.device).float()
        with torch.autocast(bench.device.type, DTYPE):
            predicted = model(noisy, timestep, **inputs, return_dict=False)[0]
        loss = F.mse_loss(predicted[:, : shape[1]].float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    first_s, _ = meter.time(step)
    for _ in range(WARM_UP - 1):
        step()
    meter.clear()
    timed = [meter.time(step) for _ in range(bench.scale.training_steps)]
    seconds = spread([each for each, _ in timed])
    return {
        "allocated_before_gib": before,
        **{name: value for name, value in meter.memory().items() if name != "allocated_gib"},
        "trained_parameters": sum(weight.numel() for weight in weights),
        "first_step_s": first_s,
        "step_s": asdict(seconds),
        "samples_per_s": batch_size / seconds.median,
        "is_finite": bool(torch.stack([loss for _, loss in timed]).isfinite().all()),
    }


def make_model(bench: Bench, row: Row) -> Any:
    """The row's model on the device, its parameters that are trained in float32."""
    theirs = make_theirs(bench.scale, bench.device)
    model: nn.Module = our_copy(theirs) if row.is_ours else theirs
    if row.trained == "all":
        model.float().requires_grad_(True)
    else:
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS)
        inject_adapter_in_model(config, model)
        cast_training_params(model, dtype=torch.float32)
    if row.is_recomputed:
        model.enable_gradient_checkpointing()
    if row.is_compiled:
        compile_blocks(model, bench.scale)
    return model.train()


def make_inputs(bench: Bench, model: Any) -> dict[str, Any]:
    """Random text for a batch, and positions where the model takes them as an argument."""
    case: Case = make_step_case(bench, bench.scale.training_px)
    if isinstance(model, DiT):
        text = text_as(case.text, DTYPE)
        meta = case.image_meta_size
        inputs = model_inputs(model, text, guided=False, image_meta_size=meta, device=bench.device)
    else:
        inputs = their_inputs(model, case, DTYPE)
        for name in ("image_meta_size", "style"):
            inputs.pop(name)
    batch_size = bench.scale.training_batch_size
    return {
        name: torch.cat([value[:1]] * batch_size) if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }
