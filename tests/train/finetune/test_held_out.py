"""Held-out pictures: never trained on, and measured at the same noise every time."""

import pytest
import torch

from dianjing.train.finetune.held_out import QUANTILES, parts, split
from dianjing.train.finetune.preparing import fill
from tests.train.finetune.conftest import finetune_run
from tests.train.finetune.test_finetune import prepared

HELD = {"data": {"held_out": 0.4}}


def names_in(pictures):
    return {entry.name for entries in pictures.values() for entry in entries}


def gathered_of(config):
    from accelerate import Accelerator

    config.run.folder.mkdir(parents=True, exist_ok=True)
    return fill(config, Accelerator(cpu=True))


def test_a_picture_is_held_out_for_good_whatever_comes_beside_it(tmp_path, model, sets):
    gathered, _ = gathered_of(finetune_run(tmp_path / "run", model=model, sets=sets))
    kept, held = split(gathered, 0.4)
    assert names_in(kept.pictures) | names_in(held) == names_in(gathered.pictures)
    assert not names_in(kept.pictures) & names_in(held)
    gone = tmp_path / "pictures" / next(iter(sorted(names_in(kept.pictures))))
    gone.unlink()
    fewer, _ = gathered_of(finetune_run(tmp_path / "run", model=model, sets=sets))
    assert names_in(split(fewer, 0.4)[1]) == names_in(held)


def test_held_out_pictures_are_not_trained_on(tmp_path, model, sets):
    job = prepared(finetune_run(tmp_path / "run", model=model, sets=sets, changes=HELD))
    plan = job.batches.plan
    trained = {name for step in range(plan.epoch_steps) for name in plan.names(step)}
    assert trained
    assert not trained & names_in(job.task.held_out)


def test_share_that_parts_nothing_is_refused(tmp_path, model, sets):
    gathered, _ = gathered_of(finetune_run(tmp_path / "run", model=model, sets=sets))
    with pytest.raises(ValueError, match="into all and none"):
        split(gathered, 1e-9)


def test_measures_repeat_and_part_languages_and_timesteps(tmp_path, model, sets):
    job = prepared(finetune_run(tmp_path / "run", model=model, sets=sets, changes=HELD))
    with torch.no_grad():
        first, again = job.task.measure(), job.task.measure()
    assert first == again
    for language in ("zh", "en"):
        quantiles = [first[f"held_out_{language}_q{q + 1}"] for q in range(QUANTILES)]
        assert first[f"held_out_{language}"] == pytest.approx(sum(quantiles) / QUANTILES)
        assert len(set(quantiles)) == QUANTILES
    for part in parts(job.task.held_out, job.task.encoded, job.task.say):
        assert (part.positions >= part.quantile / QUANTILES).all()
        assert (part.positions < (part.quantile + 1) / QUANTILES).all()


def test_measure_is_the_error_of_the_model_on_those_pictures(tmp_path, model, sets):
    job = prepared(finetune_run(tmp_path / "run", model=model, sets=sets, changes=HELD))
    errors, count = 0.0, 0
    with torch.no_grad():
        for part in parts(job.task.held_out, job.task.encoded, job.task.say):
            if (part.language, part.quantile) == ("zh", 0):
                noise = {"latents": part.noise, "timestep": job.task.noising.timestep(part.positions)}
                errors += job.task(part.batch, noise)["error"].item() * len(part.positions)
                count += len(part.positions)
        assert job.task.measure()["held_out_zh_q1"] == pytest.approx(errors / count, rel=1e-5)
