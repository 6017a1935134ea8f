"""A loss that grows or does not fall is said, once, while it happens and in the card."""

import json

import numpy as np
import pytest
from huggingface_hub import ModelCard

from dianjing.train.run import train_model
from dianjing.train.trainer.divergence import find_divergence
from tests.train.tiny import UNINTERRUPTED, TinySource, make_autoencoder_config


def make_records(losses, *, log_every=20):
    return [{"step": (index + 1) * log_every, "loss": float(loss)} for index, loss in enumerate(losses)]


def get_ids(records):
    return [message.message_id for message in find_divergence(records, int(records[-1]["step"]))]


@pytest.mark.parametrize("log_every", [1, 20, 500])
def test_falling_loss_with_noise_is_no_sign_of_divergence(log_every):
    for seed in range(50):
        noise = np.random.default_rng(seed).lognormal(sigma=0.5, size=2000)
        assert get_ids(make_records(noise * np.linspace(1, 0.3, 2000), log_every=log_every)) == []


def test_losses_of_single_timesteps_may_differ_a_hundredfold():
    noise = 10 ** np.random.default_rng(0).uniform(-2, 0, 4000)  # of one sample a step, each at another timestep
    assert "loss_grew" not in get_ids(make_records(noise, log_every=1))


def test_tenfold_loss_is_reported_once_until_it_has_fallen_again():
    losses = [1.0, 0.8, 0.7, 9.0, 20.0, 0.7, 0.6, 30.0]
    messages = find_divergence(make_records(losses), 2000)
    assert [message.arguments["step"] for message in messages] == [80, 160]
    assert {message.message_id for message in messages} == {"loss_grew"}


def test_loss_that_does_not_fall_is_reported():
    assert get_ids(make_records([0.5] * 8)) == ["loss_not_falling"]
    assert get_ids(make_records([0.5] * 7)) == []  # too short to say
    (message,) = find_divergence(make_records([0.5] * 20), 400)
    assert message.arguments["step"] == 200  # half of the run, and not again at its end


def test_diverging_run_says_so_and_its_card_too(tmp_path, capsys):
    config = make_autoencoder_config(tmp_path / "run", total_steps=40, log_every=20, export_dtype="float32")
    train_model(config, TinySource(), resume="auto", should_stop=iter([False] * 19 + [True]).__next__)
    metrics = tmp_path / "run" / "metrics.jsonl"
    (line,) = [json.loads(each) for each in metrics.read_text().splitlines() if "loss" in each]
    metrics.write_text(json.dumps(line | {"loss": line["loss"] / 1000}) + "\n")
    capsys.readouterr()
    train_model(config, TinySource(), **UNINTERRUPTED)
    assert "at step 40 the loss is" in capsys.readouterr().err
    assert "at step 40 the loss is" in ModelCard.load(tmp_path / "run" / "export" / "README.md").text
