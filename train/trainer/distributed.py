"""Distributed training: DeepSpeed's ZeRO stages 1 and 2, and how this process was launched.

With ZeRO every process has all weights, but only its partition of the optimizer moments (and from stage 2 on, of the
gradients). DeepSpeed clips gradients and steps inside `Accelerator.backward`; it skips the step if the gradient norm is
not finite.
"""

import importlib.util
import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedType, convert_outputs_to_fp32
from torch import Tensor, nn

from dianjing.errors import DianjingError

SUPPORTED_ZERO_STAGES = (1, 2)
ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")
REDUCE_BUCKET_SIZE = 50_000_000  # gradients reduced at once: 0.2 GB, a tenth of DeepSpeed's default
FSDP2_COMMAND = "accelerate launch --config_file train/recipes/fsdp2.yaml"


def is_deepspeed_launched() -> bool:
    """True if `accelerate launch` was asked for DeepSpeed."""
    return _is_requested("DEEPSPEED")


def is_fsdp_launched() -> bool:
    """True if `accelerate launch` was asked for FSDP."""
    return _is_requested("FSDP")


def _is_requested(name: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"


def make_deepspeed_plugin(max_grad_norm: float) -> DeepSpeedPlugin | None:
    """accelerate's configuration of DeepSpeed with the settings of the run; None if it was not launched with it.

    Raises: DianjingError if DeepSpeed is not installed, or would partition more than checkpoints can gather.
    """
    if not is_deepspeed_launched():
        return None
    if importlib.util.find_spec("deepspeed") is None:
        raise DianjingError("deepspeed_missing")
    plugin = DeepSpeedPlugin()
    if plugin.zero_stage not in SUPPORTED_ZERO_STAGES:
        raise DianjingError("zero_stage_unsupported", stage=plugin.zero_stage, command=FSDP2_COMMAND)
    if plugin.hf_ds_config.is_offload():
        raise DianjingError("zero_offload_unsupported", command=FSDP2_COMMAND)
    plugin.deepspeed_config |= {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # used for its logs alone
        "gradient_clipping": max_grad_norm,
        "fp16": {"enabled": False},
        "bf16": {"enabled": False},  # the dtype of the weights themselves
    }
    plugin.deepspeed_config["zero_optimization"].setdefault("reduce_bucket_size", REDUCE_BUCKET_SIZE)
    return plugin


def check_processes(accelerator: Accelerator) -> None:
    """Check that accelerate sees all processes. Raises: DianjingError if not, as with DeepSpeed on a CPU."""
    uses_deepspeed = accelerator.distributed_type is DistributedType.DEEPSPEED
    if uses_deepspeed and accelerator.num_processes != torch.distributed.get_world_size():
        raise DianjingError("deepspeed_without_gpus")


def prepare_model_and_optimizer(
    accelerator: Accelerator, task: nn.Module, optimizer: Any, *, dtype: torch.dtype
) -> tuple[Any, Any]:
    """`Accelerator.prepare`, and for DeepSpeed what it leaves out: autocast to `dtype`, and moments from the start."""
    uses_deepspeed = accelerator.distributed_type is DistributedType.DEEPSPEED
    if uses_deepspeed and dtype is not torch.float32:
        task.forward = convert_outputs_to_fp32(torch.autocast(accelerator.device.type, dtype)(task.forward))
    model, optimizer = accelerator.prepare(task, optimizer)
    if uses_deepspeed:
        _init_moments(accelerator, task, optimizer)
    return model, optimizer


def is_zero_partitioned(optimizer: Any) -> bool:
    """True for a prepared optimizer whose moments are partitioned by ZeRO."""
    if not is_deepspeed_launched():
        return False
    from accelerate.utils import DeepSpeedOptimizerWrapper

    return isinstance(optimizer, DeepSpeedOptimizerWrapper)


def get_zero_optimizer_state(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    """The full optimizer state on every process, as torch's get_optimizer_state_dict; all processes take part."""
    from deepspeed.utils import safe_get_full_optimizer_state

    step = _get_step_counters(optimizer)[0]
    state = {
        name: {"step": step, **{kind: safe_get_full_optimizer_state(weight, kind).cpu() for kind in ADAM_MOMENTS}}
        for name, weight in _get_trainable(model).items()
    }
    return {"state": state, "param_groups": []}


def load_zero_optimizer_state(model: nn.Module, optimizer: Any, state_dict: dict[str, Any]) -> None:
    """Load a full optimizer state, as torch's set_optimizer_state_dict, and copy the model's weights to the optimizer.

    Raises: DianjingError if some weights have made more steps than others.
    """
    from deepspeed.utils import safe_set_full_optimizer_state

    state = state_dict["state"]
    steps = {int(moments["step"]) for moments in state.values()}
    if len(steps) > 1:
        raise DianjingError("deepspeed_unequal_steps", steps=sorted(steps), command=FSDP2_COMMAND)
    for step in _get_step_counters(optimizer):
        step.fill_(max(steps, default=0))
    for name, weight in _get_trainable(model).items():
        for kind in ADAM_MOMENTS:
            value = state[name][kind] if name in state else torch.zeros_like(weight)  # it never had a gradient
            safe_set_full_optimizer_state(weight, value, kind)
    optimizer.optimizer.refresh_fp32_params()


def _get_trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _init_moments(accelerator: Accelerator, task: nn.Module, optimizer: Any) -> None:
    """Create moments of zeros, and make a step without gradient and learning rate that changes no weight.

    After its first step, DeepSpeed gives access to the moments, which loading a checkpoint needs; those of a second
    parameter group only if they existed before that step.
    """
    for partition in [partition for group in optimizer.param_groups for partition in group["params"]]:
        moments = {kind: torch.zeros_like(partition) for kind in ADAM_MOMENTS}
        optimizer.state[partition] = {"step": torch.zeros((), device=partition.device), **moments}
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # the training loop sets it before every step
    accelerator.backward(0.0 * torch.stack([weight.sum() for weight in _get_trainable(task).values()]).sum())
    for step in _get_step_counters(optimizer):
        step.zero_()


def _get_step_counters(optimizer: Any) -> list[Tensor]:
    """The step counter of each parameter group's partition on this process."""
    return [state["step"] for state in optimizer.state.values()]
