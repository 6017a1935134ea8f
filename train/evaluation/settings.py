"""Settings shared by the evaluation commands, and their command-line arguments."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from dianjing.errors import convert_system_error, get_language

LANGUAGES = ("zh", "en")
GROUND_TRUTH = "ground_truth"  # column of a report: the procedural world itself, in place of a model's output
COLUMNS = (*LANGUAGES, GROUND_TRUTH)
GRID_FORMAT: dict[str, Any] = {"quality": 90, "method": 6}  # of the WebP files of generated images
GRID_PX = 16  # grid of positions and sizes in evaluated scenes, in pixels of the canvas

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def exit_on_user_error(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Exit with a message, in the language of the user, on errors that the user can do something about."""
    try:
        yield
    except Exception as error:
        user_error = convert_system_error(error)
        if user_error is None:
            raise
        parser.error(user_error.render(get_language()))


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """The model to evaluate, the number of samples, and the device.

    model: a registry name, a folder or a Hub id. lora: the folder of an adapter, with its scheduler.
    num_inference_steps, guidance_scale: None stands for the model's defaults. is_slow: without its default adapter.
    num_samples: per row of the report and language. num_processes: with one thread each if above 1.
    """

    model: str = "sticker"
    lora: str | None = None
    device: str = "cpu"
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    is_slow: bool = False
    num_samples: int
    seed: int = 0
    num_processes: int = 1

    @property
    def generation_settings(self) -> dict[str, Any]:
        """Keyword arguments of a pipeline's call."""
        return {"num_inference_steps": self.num_inference_steps, "guidance_scale": self.guidance_scale}

    def prepare(self, pipeline: Any) -> Any:
        """Move a pipeline to the device, without progress bars, and without its default adapter if it is slow."""
        pipeline.set_progress_bar_config(disable=True)
        if self.is_slow:
            pipeline.default_adapter = None
        return pipeline.to(self.device)


def make_evaluation_parser(
    prog: str, *, description: str, default_count: int, count_help: str, epilog: str | None = None
) -> argparse.ArgumentParser:
    """Make a parser with the arguments of EvaluationSettings and `--out`."""
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=description, epilog=epilog)
    parser.add_argument("--model", default="sticker", help="registry name, folder or Hub id (default: sticker)")
    parser.add_argument("--count", type=int, default=default_count, help=f"{count_help} (default: {default_count})")
    parser.add_argument("--seed", type=int, default=0, help="seed of the prompts and of the noise (default: 0)")
    parser.add_argument("--steps", type=int, default=None, help="denoising steps (default: the model's)")
    parser.add_argument("--guidance", type=float, default=None, help="guidance scale (default: the model's)")
    parser.add_argument("--slow", action="store_true", help="draw without the model's adapter for few steps")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--processes", type=int, default=1, help="processes with one thread each (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder for the report (default: report)")
    return parser


def parse_evaluation_settings(arguments: argparse.Namespace) -> EvaluationSettings:
    """Read the settings from parsed arguments of `make_evaluation_parser`."""
    return EvaluationSettings(
        model=arguments.model,
        device=arguments.device,
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        is_slow=arguments.slow,
        num_samples=arguments.count,
        seed=arguments.seed,
        num_processes=arguments.processes,
    )


def map_in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], *, num_processes: int
) -> Iterator[Result]:
    """Map a picklable function over items, in this process or in several with one thread each, in their order."""
    if num_processes == 1:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(
        num_processes, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        yield from pool.map(function, items)
