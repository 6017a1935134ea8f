"""The commented files that people begin with, and what the command does with them."""

import re

import pytest

from dianjing.train.cli import main
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.config.run_file import TEMPLATE_FOLDER, read_dataset_configs, read_run_config

KEY = re.compile(r"^# (\w+ = .*)$", re.MULTILINE)


def test_init_writes_files_that_are_read_and_never_writes_over_one(tmp_path, capsys):
    path = tmp_path / "style.toml"
    assert main([str(path), "--init"]) == 0
    config = read_run_config(path)
    assert isinstance(config, FinetuneRunConfig)
    assert config.data.datasets_file == tmp_path / "datasets.toml"
    assert read_dataset_configs(config.data.datasets_file)[0].path == tmp_path / "pictures"
    path.write_text("mine")
    assert main([str(path), "--init"]) == 2
    assert "there already" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_what_is_commented_out_is_known_and_says_the_default(tmp_path):
    template = (TEMPLATE_FOLDER / "run.toml").read_text(encoding="utf-8")
    shown, path = KEY.sub(r"\1", template), tmp_path / "run.toml"
    assert shown != template
    path.write_text(shown, encoding="utf-8")
    given = read_run_config(path).model_dump()
    path.write_text(template, encoding="utf-8")
    default = read_run_config(path).model_dump()
    different = {
        f"{section}.{key}"
        for section, values in given.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if value != default[section][key]
    }
    # those whose default is to be off, or the model's, show a usual value
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
    assert "9 pictures" in capsys.readouterr().out
    assert main(["verify-resume", str(path), *settings]) == 0
    assert "resuming is exact" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["a.toml", "b.toml"], ["verify-resume"], ["verify", "a.toml"]])
def test_words_that_name_no_single_run_file_are_refused(words, capsys):
    assert main(words) == 2
    assert "give one run file" in capsys.readouterr().err
