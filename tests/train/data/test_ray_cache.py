"""The latent cache filled by Ray Data."""

import sys
from pathlib import Path

import pytest
import ray
from safetensors.torch import load_file
from torch.testing import assert_close

from dianjing.train.data.ray_cache import fill_latent_cache_with_ray, main
from tests.train.finetuning import build_setup, make_finetune_config

ROOT = Path(__file__).parents[3]


@pytest.fixture
def small_ray(monkeypatch):
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")  # a busy machine takes longer than the half minute
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(
        num_cpus=2,
        object_store_memory=80 << 20,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()


@pytest.mark.timeout(600)
def test_ray_writes_the_same_cache_as_a_run(tmp_path, model, datasets_file, small_ray):
    configs = {
        name: make_finetune_config(
            tmp_path / name,
            model=model,
            datasets_file=datasets_file,
            changes={"data": {"cache_folder": str(tmp_path / name)}},
        )
        for name in ("by ray", "by the run")
    }
    fill_latent_cache_with_ray(configs["by ray"])
    build_setup(configs["by the run"])
    by_ray, by_run = (
        {str(path.relative_to(tmp_path / name)): load_file(path) for path in (tmp_path / name).rglob("*.safetensors")}
        for name in configs
    )
    assert by_run
    assert_close(by_ray, by_run)


def test_missing_ray_is_named_with_its_extra(tmp_path, finetune_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"dianjing\[ray\]"):
        fill_latent_cache_with_ray(finetune_config(tmp_path))


def test_run_without_a_cache_is_refused(tmp_path, capsys):
    path = tmp_path / "run.toml"
    path.write_text(
        'task = "autoencoder"\n[run]\nfolder = "x"\ntotal_steps = 1\nbatch_size = 1\n'
        "[data]\nstages = [{scene_weights = {single = 1.0}}]\n[optimizer]\nlearning_rate = 1e-3\n"
    )
    assert main([str(path)]) == 2
    assert "caches nothing" in capsys.readouterr().err
