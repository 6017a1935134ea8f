"""A resumed run: what changed since is said, what cannot be combined is refused, and the card states what was used."""

import itertools
import json

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from dianjing.errors import DianjingError
from dianjing.train.config.run_file import parse_run_config
from dianjing.train.run import train_model
from dianjing.train.trainer.checkpoint import find_newest_checkpoint
from dianjing.train.trainer.history import RunPart, count_samples, extend_history, read_history
from tests.train.finetuning import get_export_folder
from tests.train.tiny import UNINTERRUPTED, TinySource, make_autoencoder_config


def stop_after(steps):
    calls = itertools.count(1)
    return {"resume": "auto", "should_stop": lambda: next(calls) >= steps}


def change(config, **sections):
    """The config with changed keys of its sections."""
    tree = json.loads(config.model_dump_json())
    for section, values in sections.items():
        tree[section] |= values
    return parse_run_config(tree)


@pytest.fixture
def stopped(tmp_path):
    """A run of the tiny autoencoder that was stopped after two of its steps."""
    config = make_autoencoder_config(tmp_path / "run", total_steps=6, export_dtype="float32")
    train_model(config, TinySource(), **stop_after(2))
    return config


def test_changed_settings_are_named_with_both_values(stopped, capsys):
    learning_rate = stopped.optimizer.learning_rate
    changed = change(stopped, optimizer={"learning_rate": 1e-5}, run={"batch_size": 8, "total_steps": 5})
    capsys.readouterr()
    train_model(changed, TinySource(), **UNINTERRUPTED)
    output = capsys.readouterr().out
    assert "settings changed since step 2:" in output
    for line in (
        f"optimizer.learning_rate: {learning_rate} -> 1e-05",
        f"run.batch_size: {stopped.run.batch_size} -> 8",
        "run.total_steps: 6 -> 5",
    ):
        assert line in output
    assert "run.seed" not in output


def test_unchanged_run_says_nothing_of_changes(stopped, capsys):
    capsys.readouterr()
    train_model(stopped, TinySource(), **UNINTERRUPTED)
    output = capsys.readouterr().out
    assert "settings changed" not in output
    assert "data:" not in output
    newest, _ = find_newest_checkpoint(stopped.run.folder / "checkpoints")
    assert [part.first_step for part in read_history(newest)] == [0]


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"model": {"latent_channels": 3}}, "model.latent_channels: 2 -> 3"),
        (
            {"optimizer": {"kind": "schedule_free", "lr_schedule": "constant"}},
            'optimizer.kind: "adamw" -> "schedule_free"',
        ),
        ({"optimizer": {"ema_snapshot_every": 2}}, "optimizer.ema_snapshot_every: - -> 2"),
    ],
)
def test_what_cannot_be_combined_is_refused_by_name_before_anything_is_built(stopped, sections, named, monkeypatch):
    monkeypatch.setattr("dianjing.train.run.build_training", None)
    with pytest.raises(DianjingError, match="cannot be combined") as error:
        train_model(change(stopped, **sections), TinySource(), **UNINTERRUPTED)
    assert named in str(error.value)
    assert "无法与已训练的权重结合" in error.value.render("zh")


def test_adapter_of_another_rank_is_refused(tmp_path, finetune_config):
    train_model(finetune_config(tmp_path / "run"), **stop_after(2))
    with pytest.raises(DianjingError, match=r"model\.lora\.rank: 2 -> 4"):
        train_model(finetune_config(tmp_path / "run", changes={"model": {"lora": {"rank": 4}}}), **UNINTERRUPTED)


def test_end_before_the_trained_steps_is_refused(stopped):
    with pytest.raises(DianjingError, match="2 steps are trained already"):
        train_model(change(stopped, run={"total_steps": 1}), TinySource(), **UNINTERRUPTED)


def test_changed_data_are_one_line_and_the_card_states_everything_that_was_used(tmp_path, finetune_config, capsys):
    config = finetune_config(tmp_path / "run", batch_size=2, total_steps=6)
    train_model(config, **stop_after(2))
    pictures = tmp_path / "pictures"
    Image.new("RGB", (16, 16)).save(pictures / "new.png")
    (pictures / "new.txt").write_text("a balloon")
    (pictures / "0.png").unlink()
    (pictures / "0.txt").unlink()
    (pictures / "1.txt").write_text("another caption")
    capsys.readouterr()
    changed = finetune_config(
        tmp_path / "run", batch_size=3, total_steps=6, changes={"data": {"max_rejected_fraction": 0.5}}
    )
    train_model(changed, **UNINTERRUPTED)
    line = "data: 1 added (new.png), 1 removed (0.png), 1 with another image or caption (1.png)"
    assert line in capsys.readouterr().out
    card = ModelCard.load(get_export_folder(config) / "README.md").text
    assert "- from step 2: run.batch_size: 2 -> 3; data.max_rejected_fraction: 0.1 -> 0.5; " + line in card
    assert "| samples | 16 |" in card  # 2 steps of 2, 4 steps of 3


def test_history_of_a_part_that_trained_no_step_is_left_out():
    parts = [
        RunPart(first_step=step, settings={"run.batch_size": size}, samples=None) for step, size in ((0, 2), (5, 3))
    ]
    history = extend_history(parts, RunPart(first_step=5, settings={"run.batch_size": 4}, samples=None))
    assert [(part.first_step, part.settings["run.batch_size"]) for part in history] == [(0, 2), (5, 4)]
    assert count_samples(history, 7) == 5 * 2 + 2 * 4
    assert extend_history(history, RunPart(first_step=7, settings={"run.batch_size": 4}, samples=None)) == history
