"""The commented template files, and commands that use them."""

import re

import pytest

from dianjing.train.cli import main
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.config.run_file import TEMPLATE_FOLDER, read_dataset_configs, read_run_config

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
        "model.lora",
        "objective.min_snr_gamma",
        "objective.noise_offset",
        "optimizer.ema_snapshot_every",
        "samples.num_inference_steps",
        "samples.guidance_scale",
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
