"""Sections of a run file that every task has: the run, the optimizer, and the distribution of timesteps."""

from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from dianjing.errors import DianjingError

MIN_PRODIGY_LEARNING_RATE = 0.1  # smaller ones are those of other optimizers


class BaseConfig(BaseModel):
    """A frozen section of a run file; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @model_validator(mode="after")
    def _check_paths(self) -> Self:
        """Refuse paths that TOML has read wrongly: "D:\\new" in double quotes holds a line break."""
        for path in dict(self).values():
            if isinstance(path, Path) and not str(path).isprintable():
                raise DianjingError("path_with_control_character", path=repr(str(path)))
        return self


class RunConfig(BaseConfig):
    """The section [run]: length, batch size, precision, logs and checkpoints."""

    folder: Path  # metrics, samples, checkpoints and the export are written here
    seed: int = 0
    total_steps: int = Field(gt=0)
    max_minutes: float | None = Field(default=None, gt=0)  # from the start: then save, export and end
    batch_size: int = Field(gt=0)  # global: over all processes and gradient accumulation steps
    gradient_accumulation_steps: int = Field(default=1, gt=0)
    mixed_precision: Literal["no", "bf16"] = "no"
    # of float32 matrix products, see torch.set_float32_matmul_precision; "medium" is bfloat16 on a CPU
    matmul_precision: Literal["highest", "high", "medium"] = "high"
    compile: Literal["none", "default", "max-autotune-no-cudagraphs"] = "none"
    log_every: int = Field(default=20, gt=0)
    sample_every: int = Field(default=1000, gt=0)
    checkpoint_every: int = Field(default=1000, gt=0)
    max_checkpoints: int = Field(default=2, gt=0)
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()  # in addition to metrics.jsonl
    export_dtype: Literal["float32", "float16", "bfloat16"] = "float16"

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of activations, and of cached latents and text-encoder states."""
        return torch.bfloat16 if self.mixed_precision == "bf16" else torch.float32


class OptimizerConfig(BaseConfig):
    """The section [optimizer]: optimizer, learning rate and moving averages of the weights."""

    # adamw8bit: moments in 8 bits; schedule_free: with an average of its own instead of ema_decay (Defazio et al. 2024)
    # prodigy: finds its learning rate, of which learning_rate is a multiple, best 1 (Mishchenko and Defazio 2023)
    kind: Literal["adamw", "adamw8bit", "schedule_free", "prodigy"] = "adamw"
    learning_rate: float = Field(gt=0)
    d_coef: float = Field(default=1.0, gt=0)  # of prodigy: a factor of the learning rate that it finds
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.01  # of matrices and kernels, never of biases, norms and embeddings
    max_grad_norm: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=500, ge=0)
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    # the end of the cosine: total_steps, or run.max_minutes for a run whose number of steps is unknown
    lr_decay_over: Literal["steps", "time"] = "steps"
    final_lr_fraction: float = Field(default=0.05, ge=0, le=1)  # of learning_rate, at the last step
    ema_decay: float = Field(default=0.9995, ge=0, lt=1)
    ema_snapshot_every: int | None = Field(default=None, gt=0)  # steps between snapshots for post-hoc EMA

    @model_validator(mode="after")
    def _check_schedule(self) -> "OptimizerConfig":
        if self.kind == "schedule_free" and self.lr_schedule != "constant":
            raise DianjingError("schedule_free_schedule", lr_schedule=self.lr_schedule)
        if self.kind == "prodigy" and self.learning_rate < MIN_PRODIGY_LEARNING_RATE:
            raise DianjingError("prodigy_learning_rate", learning_rate=self.learning_rate)
        return self


class TimestepSamplingConfig(BaseConfig):
    """The distribution of the timesteps that are trained at."""

    timestep_sampling: Literal["uniform", "stratified", "logit_normal"] = "stratified"
    logit_mean: float = 0.0
    logit_std: float = Field(default=1.0, gt=0)
    # of the noisiest timestep, where sampling starts and all is decided in few steps; the others have the distribution
    noisiest_share: float = Field(default=0.0, ge=0, lt=1)
