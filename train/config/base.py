"""The parts of a run file, typed: what may stand in it, and what it means."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class BaseConfig(BaseModel):
    """A frozen part of the run file."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class RunConfig(BaseConfig):
    folder: Path  # metrics, samples, checkpoints and the export land here
    seed: int = 0
    total_steps: int = Field(gt=0)
    max_minutes: float | None = Field(default=None, gt=0)  # save, export and leave when over
    batch_size: int = Field(gt=0)  # the global batch: all processes and accumulations together
    gradient_accumulation_steps: int = Field(default=1, gt=0)
    mixed_precision: Literal["no", "bf16"] = "no"
    # of float32 products, as torch.set_float32_matmul_precision has it: "medium" is bfloat16 on a CPU
    matmul_precision: Literal["highest", "high", "medium"] = "high"
    compile: Literal["none", "default", "max-autotune-no-cudagraphs"] = "none"
    log_every: int = Field(default=20, gt=0)
    sample_every: int = Field(default=1000, gt=0)
    checkpoint_every: int = Field(default=1000, gt=0)
    max_checkpoints: int = Field(default=2, gt=0)
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()  # besides metrics.jsonl
    export_dtype: Literal["float32", "float16", "bfloat16"] = "float16"


class OptimizerConfig(BaseConfig):
    # adamw8bit: moments in eight bits; schedule_free: its own average in place of ema_decay (Defazio et al. 2024)
    kind: Literal["adamw", "adamw8bit", "schedule_free"] = "adamw"
    learning_rate: float = Field(gt=0)
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.01  # matrices and kernels only; never biases, norms, embeddings
    max_grad_norm: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=500, ge=0)
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    final_lr_fraction: float = Field(default=0.05, ge=0, le=1)  # of the learning rate, at the end
    ema_decay: float = Field(default=0.9995, ge=0, lt=1)
    ema_snapshot_every: int | None = Field(default=None, gt=0)  # steps; for averages whose length is chosen afterwards

    @model_validator(mode="after")
    def _check_schedule(self) -> "OptimizerConfig":
        if self.kind == "schedule_free" and self.lr_schedule != "constant":
            raise ValueError(f"kind 'schedule_free' with lr_schedule {self.lr_schedule!r}; it takes lr_schedule = 'constant'")
        return self


class TimestepSamplingConfig(BaseConfig):
    """Which timesteps are trained at, and how often."""

    timestep_sampling: Literal["uniform", "stratified", "logit_normal"] = "stratified"
    logit_mean: float = 0.0
    logit_std: float = Field(default=1.0, gt=0)
