"""Held-out pictures: never trained on, and measured at the same noise every time."""

import pytest
import torch

from dianjing.train.data.preparation import index_and_encode
from dianjing.train.data.validation import NUM_QUANTILES, iterate_validation_batches, split_validation
from tests.train.finetuning import build_setup

HELD = {"data": {"validation_fraction": 0.4}}


def names_in(pictures):
    return {entry.name for entries in pictures.values() for entry in entries}


def gathered_of(config):
    from accelerate import Accelerator

    config.run.folder.mkdir(parents=True, exist_ok=True)
    return index_and_encode(config, Accelerator(cpu=True))


def test_a_picture_is_held_out_for_good_whatever_comes_beside_it(tmp_path, finetune_config):
    gathered, _ = gathered_of(finetune_config(tmp_path / "run"))
    kept, held = split_validation(gathered, 0.4)
    assert names_in(kept.records) | names_in(held) == names_in(gathered.records)
    assert not names_in(kept.records) & names_in(held)
    gone = tmp_path / "pictures" / next(iter(sorted(names_in(kept.records))))
    gone.unlink()
    fewer, _ = gathered_of(finetune_config(tmp_path / "run"))
    assert names_in(split_validation(fewer, 0.4)[1]) == names_in(held)


def test_held_out_pictures_are_not_trained_on(tmp_path, finetune_config):
    job = build_setup(finetune_config(tmp_path / "run", changes=HELD))
    plan = job.batches.schedule
    trained = {name for step in range(plan.steps_per_epoch) for name in plan.get_names(step)}
    assert trained
    assert not trained & names_in(job.task.validation_records)


def test_share_that_parts_nothing_is_refused(tmp_path, finetune_config):
    gathered, _ = gathered_of(finetune_config(tmp_path / "run"))
    with pytest.raises(ValueError, match="into all and none"):
        split_validation(gathered, 1e-9)


def test_measures_repeat_and_part_languages_and_timesteps(tmp_path, finetune_config):
    job = build_setup(finetune_config(tmp_path / "run", changes=HELD))
    with torch.no_grad():
        first, again = job.task.validate(), job.task.validate()
    assert first == again
    for language in ("zh", "en"):
        quantiles = [first[f"validation_mse_{language}_q{q + 1}"] for q in range(NUM_QUANTILES)]
        assert first[f"validation_mse_{language}"] == pytest.approx(sum(quantiles) / NUM_QUANTILES)
        assert len(set(quantiles)) == NUM_QUANTILES
    for part in iterate_validation_batches(
        job.task.validation_records, job.task.latent_cache, job.task.caption_batcher
    ):
        assert (part.time >= part.quantile / NUM_QUANTILES).all()
        assert (part.time < (part.quantile + 1) / NUM_QUANTILES).all()


def test_measure_is_the_error_of_the_model_on_those_pictures(tmp_path, finetune_config):
    job = build_setup(finetune_config(tmp_path / "run", changes=HELD))
    errors, count = 0.0, 0
    with torch.no_grad():
        for part in iterate_validation_batches(
            job.task.validation_records, job.task.latent_cache, job.task.caption_batcher
        ):
            if (part.language, part.quantile) == ("zh", 0):
                noise = {"latents": part.noise, "timestep": job.task.noise_process.to_timestep(part.time)}
                errors += job.task(part.batch, noise)["mse"].item() * len(part.time)
                count += len(part.time)
        assert job.task.validate()["validation_mse_zh_q1"] == pytest.approx(errors / count, rel=1e-5)
