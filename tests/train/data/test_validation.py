"""Validation samples: never training_names on, and evaluated at the same noise every time."""

import pytest
import torch

from dianjing.train.data.preparation import index_and_encode
from dianjing.train.data.validation import NUM_QUANTILES, iterate_validation_batches, split_validation
from tests.train.finetuning import build_setup

VALIDATION = {"data": {"validation_fraction": 0.4}}


def get_names(records):
    return {record.name for same_shape in records.values() for record in same_shape}


def make_index(config):
    from accelerate import Accelerator

    config.run.folder.mkdir(parents=True, exist_ok=True)
    return index_and_encode(config, Accelerator(cpu=True))


def test_a_sample_stays_in_validation_whatever_the_other_samples_are(tmp_path, finetune_config):
    index, _ = make_index(finetune_config(tmp_path / "run"))
    training, validation = split_validation(index, 0.4)
    assert get_names(training.records) | get_names(validation) == get_names(index.records)
    assert not get_names(training.records) & get_names(validation)
    removed = tmp_path / "pictures" / next(iter(sorted(get_names(training.records))))
    removed.unlink()
    fewer, _ = make_index(finetune_config(tmp_path / "run"))
    assert get_names(split_validation(fewer, 0.4)[1]) == get_names(validation)


def test_validation_samples_are_not_trained_on(tmp_path, finetune_config):
    setup = build_setup(finetune_config(tmp_path / "run", changes=VALIDATION))
    schedule = setup.batches.schedule
    training_names = {name for step in range(schedule.steps_per_epoch) for name in schedule.get_names(step)}
    assert training_names
    assert not training_names & get_names(setup.task.validation_records)


def test_fraction_that_splits_nothing_is_refused(tmp_path, finetune_config):
    index, _ = make_index(finetune_config(tmp_path / "run"))
    with pytest.raises(ValueError, match="leaves no samples"):
        split_validation(index, 1e-9)


def test_metrics_repeat_and_separate_languages_and_timesteps(tmp_path, finetune_config):
    setup = build_setup(finetune_config(tmp_path / "run", changes=VALIDATION))
    with torch.no_grad():
        first, again = setup.task.validate(), setup.task.validate()
    assert first == again
    for language in ("zh", "en"):
        quantiles = [first[f"validation_mse_{language}_q{q + 1}"] for q in range(NUM_QUANTILES)]
        assert first[f"validation_mse_{language}"] == pytest.approx(sum(quantiles) / NUM_QUANTILES)
        assert len(set(quantiles)) == NUM_QUANTILES
    for part in iterate_validation_batches(
        setup.task.validation_records, setup.task.latent_cache, setup.task.caption_batcher
    ):
        assert (part.time >= part.quantile / NUM_QUANTILES).all()
        assert (part.time < (part.quantile + 1) / NUM_QUANTILES).all()


def test_metric_is_the_error_of_the_model_on_these_samples(tmp_path, finetune_config):
    setup = build_setup(finetune_config(tmp_path / "run", changes=VALIDATION))
    errors, count = 0.0, 0
    with torch.no_grad():
        for part in iterate_validation_batches(
            setup.task.validation_records, setup.task.latent_cache, setup.task.caption_batcher
        ):
            if (part.language, part.quantile) == ("zh", 0):
                noise = {"latents": part.noise, "timestep": setup.task.noise_process.to_timestep(part.time)}
                errors += setup.task(part.batch, noise)["mse"].item() * len(part.time)
                count += len(part.time)
        assert setup.task.validate()["validation_mse_zh_q1"] == pytest.approx(errors / count, rel=1e-5)
