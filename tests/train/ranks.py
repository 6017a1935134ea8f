"""Several gloo processes that train together."""

import os
import socket
import tempfile
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin, InitProcessGroupKwargs
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from dianjing.train import run
from dianjing.train.config.run_file import parse_run_config
from dianjing.train.trainer import distributed
from dianjing.train.trainer.checkpoint import find_newest_checkpoint
from tests.processes import start_process
from tests.train.tiny import TinyTask, make_autoencoder_config, make_trainer

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "train" / "recipes"


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-5)


def get_launch_environment(recipe: str) -> dict[str, str]:
    """The environment that `accelerate launch --config_file` gives its processes."""
    command = [
        "--config_file",
        str(RECIPES / f"{recipe}.yaml"),
        "--num_processes",
        "2",
        "-m",
        "dianjing.train",
        "run.toml",
    ]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ""
        return prepare_deepspeed_cmd_env(arguments)[1]
    return prepare_multi_gpu_env(arguments)


def run_ranks(job: dict[str, Any], *, recipe: str, count: int = 2, timeout_s: float = 400) -> list[tuple[int, str]]:
    """Run `train_rank` in `count` processes on the same job; returns exit code and error output of each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        **get_launch_environment(recipe),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": str(recipe != "deepspeed").lower(),
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    with tempfile.TemporaryDirectory() as folder:
        ranks: dict[Path, BaseProcess] = {}
        for rank in range(count):
            environment = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            error_file = Path(folder) / str(rank)
            ranks[error_file] = start_process(train_rank, job, environment=environment, error_file=error_file)
        try:
            for process in ranks.values():
                process.join(timeout_s)
        finally:
            for process in ranks.values():
                process.kill()
        return [(process.exitcode, error_file.read_text()) for error_file, process in ranks.items()]


def shard_with_fsdp2(accelerator: Accelerator) -> Accelerator:
    """Enable FSDP2, which accelerate does for the launch file on GPUs, but not on CPUs."""
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    accelerator.state.distributed_type, accelerator.state.fsdp_plugin = DistributedType.FSDP, plugin
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # the source of every new PartialState
    assert accelerator.is_fsdp2
    return accelerator


def use_gloo() -> None:
    """Use gloo on a CPU: DeepSpeed's own operator needs a compiler, and accelerate selects no backend."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    run.DistributedDataParallelKwargs = lambda **_: InitProcessGroupKwargs(backend="gloo")


def train_rank(job: dict[str, Any]) -> None:
    """Train the tiny task up to a step, optionally with a NaN on one rank, or run a whole config."""
    torch.set_num_threads(1)
    if distributed.is_deepspeed_launched():
        use_gloo()
    is_sharded = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if "config" in job:
        plain = run.setup_accelerator
        if is_sharded:
            run.setup_accelerator = lambda config: shard_with_fsdp2(plain(config))
        run.train_model(parse_run_config(job["config"]), resume="auto", should_stop=lambda: False)
        return
    folder = Path(job["folder"])
    config = make_autoencoder_config(folder, **job.get("run", {}))
    trainer, batches = make_trainer(
        config, accelerator=run.setup_accelerator(config) if distributed.is_deepspeed_launched() else None
    )
    assert isinstance(trainer.task, TinyTask)
    if job.get("poisoned_rank") == int(os.environ["RANK"]):
        trainer.task.poison_step = job["poison_step"]
    assert trainer.accelerator.num_processes == int(os.environ["WORLD_SIZE"])
    found, _ = find_newest_checkpoint(folder / "checkpoints")
    if found:
        trainer.load(found)
    trainer.train(batches(), should_stop=lambda: trainer.step == job["last"])
    trainer.accelerator.end_training()
