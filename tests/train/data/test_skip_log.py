"""Samples that become unreadable during a run."""

import json

import pytest
import torch

from dianjing.errors import DianjingError
from dianjing.train.data.skip_log import SkipLog
from dianjing.train.run import train_model
from tests.train.finetuning import build_setup
from tests.train.tiny import UNINTERRUPTED


def damage(setup, step, row):
    """Damage the cached latents of a sample; returns its name."""
    sample = setup.batches.schedule.get_sample(step, row)
    encoded = setup.batches.latent_cache
    encoded.cache._get_path(encoded._make_latents_key(sample.record, sample.shape, False)).write_bytes(b"torn")
    return sample.record.name


def test_damaged_sample_is_skipped_recorded_and_replaced(tmp_path, finetune_config, capsys):
    config = finetune_config(tmp_path / "run", changes={"data": {"max_rejected_fraction": 0.2}})
    expected = build_setup(config).batches[0]["latents"]
    setup = build_setup(config)  # a new cache, with nothing in memory
    name = damage(setup, 0, 1)
    batch = setup.batches[0]
    assert torch.equal(batch["latents"][0], expected[0])
    assert not torch.equal(batch["latents"][1], expected[1])
    assert torch.equal(setup.batches[0]["latents"], batch["latents"])  # the same one each time
    lines = [json.loads(line) for line in (config.run.folder / "skipped.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == [name]
    assert "damaged" in lines[0]["reason"]
    assert f"skipped: {name}" in capsys.readouterr().err
    assert "已损坏" in SkipLog(config.run.folder, limit=1).read_reasons()[name].render("zh")


def test_too_many_damaged_samples_end_the_run_with_their_names(tmp_path, finetune_config):
    config = finetune_config(tmp_path / "run", changes={"data": {"max_rejected_fraction": 0.2}})
    setup = build_setup(config)
    names = {damage(setup, step, row) for step in range(2) for row in range(2)}
    with pytest.raises(ValueError, match=r"data\.max_rejected_fraction allows 1") as error:
        [setup.batches[index] for index in range(12)]
    assert sum(name in str(error.value) for name in names) == 2


def test_run_with_a_damaged_sample_finishes(tmp_path, finetune_config):
    changes = {"data": {"max_rejected_fraction": 0.2, "num_workers": 1}}
    config = finetune_config(tmp_path / "run", changes=changes)
    name = damage(build_setup(config), 3, 0)
    train_model(config, **UNINTERRUPTED)
    assert list(SkipLog(config.run.folder, limit=9).read_reasons()) == [name]
    assert json.loads((config.run.folder / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 6


def test_image_that_changes_before_it_is_encoded_is_skipped(tmp_path, finetune_config, monkeypatch):
    from dianjing.train.data import latent_cache

    plain = latent_cache.decode_image

    def decode(source, *, name):
        if name == "3.png":
            raise DianjingError("sample_file_unreadable", name=name, reason="it went away")
        return plain(source, name=name)

    monkeypatch.setattr(latent_cache, "decode_image", decode)
    config = finetune_config(tmp_path / "run", changes={"data": {"max_rejected_fraction": 0.2}})
    setup = build_setup(config)
    for step in range(setup.batches.schedule.steps_per_epoch):
        assert setup.batches[step]["latents"].isfinite().all()
    assert list(setup.batches.skip_log.read_reasons()) == ["3.png"]
