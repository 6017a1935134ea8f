"""The registry of tasks: every run config has a definition, and nothing else asks which config it is given."""

import ast
from pathlib import Path

import pytest

from dianjing.train.config.run_file import RUN_CONFIGS
from dianjing.train.run import describe_run, fill_caches, plot_run_timesteps
from dianjing.train.tasks.registry import TASKS, get_task_definition
from tests.train.tiny import make_autoencoder_config

TRAIN = Path(__file__).parents[3] / "train"


def test_every_run_config_has_a_definition():
    assert {name: definition.config_class for name, definition in TASKS.items()} == RUN_CONFIGS


def test_no_module_asks_for_the_class_of_a_run_config():
    names = {config.__name__ for config in RUN_CONFIGS.values()}
    sites = [
        f"{path.relative_to(TRAIN)}:{node.lineno}"
        for path in TRAIN.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance"
        if names & {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    ]
    assert sites == []


def test_tasks_without_noise_or_cache_say_so(tmp_path):
    config = make_autoencoder_config(tmp_path / "run")
    assert get_task_definition(config) is TASKS["autoencoder"]
    assert "generated samples" in str(next(describe_run(config)))
    with pytest.raises(ValueError, match="adds no noise; plot-noise is for tasks finetune, text_to_image"):
        plot_run_timesteps(config)
    with pytest.raises(ValueError, match="caches nothing"):
        fill_caches(config)
    assert not (tmp_path / "run").exists()
