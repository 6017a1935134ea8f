"""Pictures that cannot be read any more once the run goes on."""

import json

import pytest
import torch

from dianjing.train.data.skip_log import SkipLog
from dianjing.train.run import train_model
from tests.train.finetuning import build_setup
from tests.train.tiny import UNINTERRUPTED


def damage(job, step, row):
    """Of a picture's latents; returns its name."""
    sample = job.batches.schedule.get_sample(step, row)
    encoded = job.batches.latent_cache
    encoded.cache._get_path(encoded._make_latents_key(sample.record, sample.shape, False)).write_bytes(b"torn")
    return sample.record.name


def test_damaged_picture_is_left_out_written_down_and_another_takes_its_place(tmp_path, finetune_config, capsys):
    config = finetune_config(tmp_path / "run", changes={"data": {"max_rejected_fraction": 0.2}})
    whole = build_setup(config).batches[0]["latents"]
    job = build_setup(config)  # which has read nothing yet: what it has read it keeps
    name = damage(job, 0, 1)
    batch = job.batches[0]
    assert torch.equal(batch["latents"][0], whole[0])
    assert not torch.equal(batch["latents"][1], whole[1])
    assert torch.equal(job.batches[0]["latents"], batch["latents"])  # the same one each time
    lines = [json.loads(line) for line in (config.run.folder / "skipped.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == [name]
    assert "damaged" in lines[0]["reason"]
    assert f"left out: {name}" in capsys.readouterr().err


def test_too_many_of_them_stop_the_run_with_their_names(tmp_path, finetune_config):
    config = finetune_config(tmp_path / "run", changes={"data": {"max_rejected_fraction": 0.2}})
    job = build_setup(config)
    names = {damage(job, step, row) for step in range(2) for row in range(2)}
    with pytest.raises(ValueError, match=r"data\.max_rejected_fraction allows 1") as error:
        [job.batches[index] for index in range(12)]
    assert sum(name in str(error.value) for name in names) == 2


def test_run_over_a_damaged_picture_comes_to_its_end(tmp_path, finetune_config):
    changes = {"data": {"max_rejected_fraction": 0.2, "num_workers": 1}}
    config = finetune_config(tmp_path / "run", changes=changes)
    name = damage(build_setup(config), 3, 0)
    train_model(config, **UNINTERRUPTED)
    assert list(SkipLog(config.run.folder, limit=9).read_reasons()) == [name]
    assert json.loads((config.run.folder / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 6


def test_picture_that_changes_before_it_is_encoded_is_left_out(tmp_path, finetune_config, monkeypatch):
    from dianjing.train.data import latent_cache

    plain = latent_cache.decode_image

    def decode(source, *, name):
        if name == "3.png":
            raise ValueError("3.png cannot be read as a picture: it went away")
        return plain(source, name=name)

    monkeypatch.setattr(latent_cache, "decode_image", decode)
    config = finetune_config(tmp_path / "run", changes={"data": {"max_rejected_fraction": 0.2}})
    job = build_setup(config)
    for step in range(job.batches.schedule.steps_per_epoch):
        assert job.batches[step]["latents"].isfinite().all()
    assert list(job.batches.skip_log.read_reasons()) == ["3.png"]
