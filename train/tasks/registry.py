"""All tasks by the name that `task` has in a run file."""

from typing import Any

from dianjing.train.config.run_file import RUN_CONFIGS, AnyRunConfig
from dianjing.train.tasks.autoencoder import AutoencoderDefinition
from dianjing.train.tasks.base import TaskDefinition
from dianjing.train.tasks.finetune_build import FinetuneDefinition
from dianjing.train.tasks.segmenter import SegmenterDefinition
from dianjing.train.tasks.text_to_image_build import TextToImageDefinition

TASKS: dict[str, TaskDefinition[Any]] = {
    "finetune": FinetuneDefinition(),
    "autoencoder": AutoencoderDefinition(),
    "segmenter": SegmenterDefinition(),
    "text_to_image": TextToImageDefinition(),
}
assert {name: task.config_class for name, task in TASKS.items()} == RUN_CONFIGS


def get_task_definition(config: AnyRunConfig) -> TaskDefinition[Any]:
    """The definition of the task of a run."""
    return TASKS[config.task]
