"""The commented template files, and commands that use them."""

import re

import pytest

from dianjing.train.cli import main
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.config.run_file import TEMPLATE_FOLDER, read_dataset_configs, read_run_config
from dianjing.weights.registry import MODELS

KEY = re.compile(r"^# (\w+ = .*)$", re.MULTILINE)


def test_init_writes_valid_files_and_never_overwrites_one(tmp_path, capsys):
    path = tmp_path / "style.toml"
    assert main([str(path), "--init"]) == 0
    config = read_run_config(path)
    assert isinstance(config, FinetuneRunConfig)
    assert config.data.datasets_file == tmp_path / "datasets.toml"
    assert read_dataset_configs(config.data.datasets_file)[0].path == tmp_path / "pictures"
    path.write_text("mine")
    assert main([str(path), "--init"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert path.read_text() == "mine"


@pytest.mark.parametrize("name", [info.name for info in MODELS])
def test_init_writes_the_settings_of_each_model(tmp_path, name):
    assert main([str(tmp_path / "run.toml"), "--init", "--set", f"model.name={name}"]) == 0
    config, info = read_run_config(tmp_path / "run.toml"), next(info for info in MODELS if info.name == name)
    assert config.model.name == name
    assert config.data.size_px == info.finetuning.size_px
    assert config.run.total_steps == info.finetuning.total_steps
    assert config.run.mixed_precision == info.finetuning.mixed_precision
    assert config.optimizer.learning_rate == info.finetuning.learning_rate
    assert config.optimizer.ema_decay == info.finetuning.ema_decay
    assert config.model.lora.rank == info.finetuning.rank
    assert config.model.lora.target_modules == info.finetuning.target_modules
    assert config.model.gradient_checkpointing_interval == info.finetuning.gradient_checkpointing_interval
    assert config.objective.prior_preservation == info.finetuning.prior_preservation > 0


def test_init_writes_overrides_with_their_comments_and_refuses_unknown_keys(tmp_path, capsys):
    path = tmp_path / "run.toml"
    assert main([str(path), "--init", "--set", "run.folder=runs/mine", "--set", "run.sample_every=50"]) == 0
    config = read_run_config(path)
    assert (str(config.run.folder), config.run.sample_every) == ("runs/mine", 50)
    assert 'folder = "runs/mine"' in path.read_text(encoding="utf-8")
    assert "# metrics, samples, checkpoints" in path.read_text(encoding="utf-8")
    assert main([str(tmp_path / "other.toml"), "--init", "--set", "run.folde=a"]) == 2
    assert "run.folde" in capsys.readouterr().err
    assert not (tmp_path / "other.toml").exists()


def test_missing_data_set_is_named_by_its_full_path_and_the_file_that_names_it(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run.toml", "--init"]) == 0
    for arguments in (["run.toml"], ["run.toml", "--dry-run"]):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert str(tmp_path / "pictures") in error
        assert str(tmp_path / "datasets.toml") in error


def test_rank_above_every_layer_is_refused_before_data_are_read(tmp_path, capsys, monkeypatch):
    assert main([str(tmp_path / "run.toml"), "--init"]) == 0
    for place in (
        "dianjing.train.memory_estimate.index_datasets",
        "dianjing.train.tasks.finetune_build.index_and_encode",
    ):
        monkeypatch.setattr(place, None)
    for arguments in ([], ["--dry-run"]):
        assert main([str(tmp_path / "run.toml"), "--set", "model.lora.rank=100000", *arguments]) == 2
        assert "model.lora.rank is 100000" in capsys.readouterr().err


def test_dry_run_is_in_the_language_of_the_user(tmp_path, model, datasets_file, capsys, monkeypatch):
    path = tmp_path / "run.toml"
    assert main([str(path), "--init"]) == 0
    monkeypatch.setenv("DIANJING_LANG", "zh")
    settings = [f"model.name={model}", "data.size_px=16", "model.lora.rank=4", "run.total_steps=10"]
    capsys.readouterr()
    assert main([str(path), *(part for each in settings for part in ("--set", each)), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 8
    assert all(re.search("[\u4e00-\u9fff]", line) for line in lines)


def test_commented_settings_are_known_and_show_their_defaults(tmp_path):
    template = (TEMPLATE_FOLDER / "run.toml").read_text(encoding="utf-8")
    uncommented, path = KEY.sub(r"\1", template), tmp_path / "run.toml"
    assert uncommented != template
    path.write_text(uncommented, encoding="utf-8")
    settings_dump = read_run_config(path).model_dump()
    path.write_text(template, encoding="utf-8")
    default = read_run_config(path).model_dump()
    different = {
        f"{section}.{key}"
        for section, values in settings_dump.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if value != default[section][key]
    }
    # settings that are off by default, or the model's own, show a typical value
    assert different == {
        "model.control_preprocessor_model",
        "model.lora",
        "objective.min_snr_gamma",
        "objective.noise_offset",
        "optimizer.ema_snapshot_every",
        "samples.num_inference_steps",
        "samples.guidance_scale",
        "samples.prompts",
    }


def test_commented_data_set_keys_are_known(tmp_path):
    path = tmp_path / "datasets.toml"
    path.write_text(KEY.sub(r"\1", (TEMPLATE_FOLDER / "datasets.toml").read_text(encoding="utf-8")), encoding="utf-8")
    (section,) = read_dataset_configs(path)
    assert section.repeats == 1.0


def test_errors_come_in_the_language_of_the_user(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DIANJING_LANG", "zh")
    assert main([str(tmp_path / "none.toml")]) == 2
    assert "无法读取" in capsys.readouterr().err


def test_cache_only_encodes_and_trains_nothing(tmp_path, model, datasets_file, capsys):
    path = tmp_path / "run.toml"
    assert main([str(path), "--init"]) == 0
    changes = [
        f"run.folder={tmp_path / 'run'}",
        f"model.name={model}",
        f"data.datasets_file={datasets_file}",
        "data.size_px=16",
        f"data.cache_folder={tmp_path / 'cache'}",
        "model.lora.rank=4",  # its layers are smaller than the template's rank
        "samples.num_inference_steps=2",
        'objective.prior_captions=["小猫", "a balloon"]',
    ]
    settings = [part for change in changes for part in ("--set", change)]
    assert main([str(path), *settings, "--cache-only"]) == 0
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) > 9
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert "9 samples" in capsys.readouterr().out
    assert main(["verify-resume", str(path), *settings]) == 0
    assert "resuming is exact" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["a.toml", "b.toml"], ["verify-resume"], ["verify", "a.toml"]])
def test_arguments_without_a_single_run_file_are_refused(words, capsys):
    assert main(words) == 2
    assert "give one run file" in capsys.readouterr().err
