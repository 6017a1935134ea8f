"""DeepSpeed's ZeRO: every process has all weights, but moments (and from stage 2 gradients) of its part of them alone.

DeepSpeed clips and makes its step inside `Accelerator.backward`; it leaves everything as it was where the norm of the
gradient is not finite.
"""

import importlib.util
import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedType, convert_outputs_to_fp32
from torch import Tensor, nn

SUPPORTED_ZERO_STAGES = (1, 2)  # of ZeRO
ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")  # of Adam
REDUCE_BUCKET_SIZE = 50_000_000  # gradients at once: 0.2 GB, of which DeepSpeed would take ten times as much
FSDP2_COMMAND = "accelerate launch --config_file train/recipes/fsdp2.yaml"


def is_deepspeed_launched() -> bool:
    """Whether `accelerate launch` asked for DeepSpeed."""
    return _is_requested("DEEPSPEED")


def is_fsdp_launched() -> bool:
    """Whether `accelerate launch` asked for FSDP."""
    return _is_requested("FSDP")


def _is_requested(name: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"


def make_deepspeed_plugin(max_grad_norm: float) -> DeepSpeedPlugin | None:
    """accelerate's own configuration of DeepSpeed, the run's settings in it; None without DeepSpeed.

    Raises: ValueError where DeepSpeed is not installed, or shall spread more than our checkpoints could gather.
    """
    if not is_deepspeed_launched():
        return None
    if importlib.util.find_spec("deepspeed") is None:
        raise ValueError("launched with DeepSpeed, which is not installed: pip install 'dianjing[deepspeed]'")
    plugin = DeepSpeedPlugin()
    if plugin.zero_stage not in SUPPORTED_ZERO_STAGES or plugin.hf_ds_config.is_offload():
        given = f"stage {plugin.zero_stage}{' with offloading' if plugin.hf_ds_config.is_offload() else ''}"
        raise ValueError(
            f"launched with DeepSpeed's ZeRO, {given}; it takes stage 1 or 2 without offloading, and what needs more "
            f"memory FSDP2: {FSDP2_COMMAND}"
        )
    plugin.deepspeed_config |= {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # for its logs alone
        "gradient_clipping": max_grad_norm,
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},  # of the weights themselves
    }
    plugin.deepspeed_config["zero_optimization"].setdefault("reduce_bucket_size", REDUCE_BUCKET_SIZE)
    return plugin


def check_processes(accelerator: Accelerator) -> None:
    """Raises ValueError where accelerate has lost sight of the others, as it does without GPUs."""
    is_ours = accelerator.distributed_type is DistributedType.DEEPSPEED
    if is_ours and accelerator.num_processes != torch.distributed.get_world_size():
        raise ValueError("launched with DeepSpeed where there are no GPUs, which accelerate cannot; take ddp.yaml")


def prepare_model_and_optimizer(
    accelerator: Accelerator, task: nn.Module, optimizer: Any, *, dtype: torch.dtype
) -> tuple[Any, Any]:
    """As `Accelerator.prepare`, with what that leaves out for DeepSpeed: to compute in `dtype`, and moments at once."""
    is_ours = accelerator.distributed_type is DistributedType.DEEPSPEED
    if is_ours and dtype is not torch.float32:
        task.forward = convert_outputs_to_fp32(torch.autocast(accelerator.device.type, dtype)(task.forward))
    model, optimizer = accelerator.prepare(task, optimizer)
    if is_ours:
        _init_moments(optimizer.optimizer)
    return model, optimizer


def is_zero_partitioned(optimizer: Any) -> bool:
    """Of one that came from `Accelerator.prepare`."""
    return hasattr(getattr(optimizer, "optimizer", None), "single_partition_of_fp32_groups")


def get_zero_optimizer_state(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    """As torch's get_optimizer_state_dict, whole on every process; all of them take part."""
    from deepspeed.utils import safe_get_full_optimizer_state

    step = _get_step_counters(optimizer)[0]
    state = {
        name: {"step": step, **{kind: safe_get_full_optimizer_state(weight, kind).cpu() for kind in ADAM_MOMENTS}}
        for name, weight in _get_trainable(model).items()
    }
    return {"state": state, "param_groups": []}


def load_zero_optimizer_state(model: nn.Module, optimizer: Any, state_dict: dict[str, Any]) -> None:
    """As torch's set_optimizer_state_dict; and the model's weights, of which the optimizer has a copy to go on from.

    Raises: ValueError where some weights have made more steps than others.
    """
    from deepspeed.utils import safe_set_full_optimizer_state

    state = state_dict["state"]
    steps = {int(kept["step"]) for kept in state.values()}
    if len(steps) > 1:
        raise ValueError(
            f"the checkpoint's weights have made {sorted(steps)} steps, and DeepSpeed counts one number for all; "
            f"go on without it, or with FSDP2: {FSDP2_COMMAND}"
        )
    for step in _get_step_counters(optimizer):
        step.fill_(max(steps, default=0))
    for name, weight in _get_trainable(model).items():
        for kind in ADAM_MOMENTS:
            value = state[name][kind] if name in state else torch.zeros_like(weight)  # it never had a gradient
            safe_set_full_optimizer_state(weight, value, kind)
    optimizer.optimizer.refresh_fp32_params()


def _get_trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _init_moments(partitioned: Any) -> None:
    """DeepSpeed finds those of a second group of weights only where they are there before the first step."""
    for flat in partitioned.single_partition_of_fp32_groups:
        moments = {kind: torch.zeros_like(flat) for kind in ADAM_MOMENTS}
        partitioned.state[flat] = {"step": torch.zeros((), device=flat.device), **moments}
    partitioned._lazy_init_hp_params_optimizer_state()


def _get_step_counters(optimizer: Any) -> list[Tensor]:
    """How often each group's flat part of this process has been stepped."""
    return [optimizer.state[flat]["step"] for flat in optimizer.optimizer.single_partition_of_fp32_groups]
