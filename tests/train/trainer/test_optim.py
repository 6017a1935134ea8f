"""Optimizers of other libraries: they learn, skip non-finite gradients, and resume bit for bit."""

import json

import pytest
import torch
from safetensors.torch import load_file

from dianjing.train.config.base import OptimizerConfig
from dianjing.train.config.run_file import parse_run_config
from dianjing.train.memory_estimate import MOMENT_BYTES
from dianjing.train.trainer.checkpoint import find_newest_checkpoint
from dianjing.train.trainer.loop import NonFiniteGradientError, Outcome
from dianjing.train.trainer.optim import check_optimizer, make_optimizer
from dianjing.train.trainer.state_dict import get_optimizer_state, load_optimizer_state
from tests.train.tiny import (
    TinyTask,
    assert_same_bits,
    load_newest_tensors,
    make_autoencoder_config,
    make_trainer,
    never,
)

KINDS = ["adamw8bit", "schedule_free", "prodigy"]
WIDTH = 2048  # else tensors are too small for eight bits


def make_config(folder, kind, **run):
    tree = json.loads(make_autoencoder_config(folder, **run).model_dump_json())
    learning_rate = 1.0 if kind == "prodigy" else 1e-3
    tree["optimizer"] |= {"kind": kind, "lr_schedule": "constant", "learning_rate": learning_rate}
    tree["optimizer"] |= {"betas": [0.9, 0.999]}
    return parse_run_config(tree)


def make_optimizer_trainer(config):
    torch.manual_seed(1)
    return make_trainer(config, TinyTask(WIDTH))


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, kind):
    trainer, batches = make_optimizer_trainer(make_config(tmp_path / "uninterrupted", kind, sample_every=1))
    trainer.train(batches(), should_stop=never)
    config = make_config(tmp_path / "resumed", kind, sample_every=1)
    first, batches = make_optimizer_trainer(config)
    stops = iter([False, True])
    assert first.train(batches(), should_stop=lambda: next(stops)) is Outcome.INTERRUPTED
    second, batches = make_optimizer_trainer(config)
    second.load(find_newest_checkpoint(tmp_path / "resumed" / "checkpoints")[0])
    second.train(batches(), should_stop=never)
    assert_same_bits(load_newest_tensors(tmp_path / "uninterrupted"), load_newest_tensors(tmp_path / "resumed"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls_with_each_kind(tmp_path, kind):
    trainer, batches = make_optimizer_trainer(make_config(tmp_path, kind, total_steps=40))
    trainer.train(batches(), should_stop=never)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < sum(losses[:5]) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_non_finite_gradient_changes_nothing(tmp_path, kind):
    trainer, batches = make_optimizer_trainer(make_config(tmp_path, kind))
    trainer.task.poison_step = 4
    with pytest.raises(NonFiniteGradientError, match="step 4"):
        trainer.train(batches(), should_stop=never)
    assert find_newest_checkpoint(tmp_path / "checkpoints")[0].step == 3
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_moments_of_large_tensors_take_one_byte_each(tmp_path):
    trainer, batches = make_optimizer_trainer(make_config(tmp_path, "adamw8bit", total_steps=3))
    trainer.train(batches(), should_stop=never)
    saved = load_file(tmp_path / "checkpoints" / "step-00000003" / "optimizer.safetensors")
    moments = [
        t for key, t in saved.items() if key.startswith("net.0.weight/") and key.endswith(("/state1", "/state2"))
    ]
    assert [t.dtype for t in moments] == [torch.uint8] * 2


def test_moments_of_prodigy_take_as_much_memory_as_a_dry_run_says():
    model = torch.nn.Linear(64, 64, bias=False)
    optimizer = make_optimizer(model, OptimizerConfig(kind="prodigy", learning_rate=1.0))
    model(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    moments = [value for value in optimizer.state[model.weight].values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in moments) == MOMENT_BYTES["prodigy"] * model.weight.numel()


def test_schedule_free_run_saves_the_average_that_the_library_evaluates_with(tmp_path):
    trainer, batches = make_optimizer_trainer(make_config(tmp_path, "schedule_free", total_steps=5, checkpoint_every=5))
    trainer.train(batches(), should_stop=never)
    saved = find_newest_checkpoint(tmp_path / "checkpoints")[0]
    training = {name: p.detach().clone() for name, p in trainer.task.named_parameters()}
    assert all(torch.equal(saved.load_tensors("model")[name], p) for name, p in training.items())
    trainer.optimizer.eval()
    for name, p in trainer.task.named_parameters():
        assert torch.equal(saved.load_tensors("ema")[name], p)
    assert not torch.equal(saved.load_tensors("ema")["net.0.weight"], saved.load_tensors("model")["net.0.weight"])


def test_checkpoint_of_another_kind_is_refused(tmp_path):
    trainer, batches = make_optimizer_trainer(make_config(tmp_path, "schedule_free", total_steps=3))
    trainer.train(batches(), should_stop=never)
    other, _ = make_optimizer_trainer(make_config(tmp_path, "adamw8bit", total_steps=3))
    with pytest.raises(ValueError, match=r"another optimizer\.kind"):
        other.load(find_newest_checkpoint(tmp_path / "checkpoints")[0])


@pytest.mark.parametrize("kind", KINDS)
def test_biases_do_not_decay(kind):
    section = OptimizerConfig(kind=kind, lr_schedule="constant", learning_rate=1.0)
    assert [group["weight_decay"] for group in make_optimizer(TinyTask(), section).param_groups] == [0.01, 0.0]


def test_schedule_free_with_another_schedule_is_refused():
    with pytest.raises(ValueError, match="schedule = 'constant'"):
        OptimizerConfig(kind="schedule_free", learning_rate=1.0)


def test_prodigy_with_the_learning_rate_of_another_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"set learning_rate = 1\.0"):
        OptimizerConfig(kind="prodigy", learning_rate=5e-4)


def test_prodigy_keeps_weights_that_start_at_zero_exact_over_a_resume():
    """Its first weights are stored as one zero for such a weight, such as the second matrix of a LoRA."""
    section = OptimizerConfig(kind="prodigy", learning_rate=1.0)
    results = []
    for stop in (None, 3):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 4)
        torch.nn.init.zeros_(model.weight)
        optimizer = make_optimizer(model, section)
        for step in range(6):
            optimizer.zero_grad()
            if step == stop:
                state = get_optimizer_state(model, optimizer)
                optimizer = make_optimizer(model, section)
                load_optimizer_state(model, optimizer, state)
            (model(torch.ones(1, 4)) - 1).square().sum().backward()
            optimizer.step()
        results.append(model.weight.detach().clone())
    assert torch.equal(*results)
    assert results[0].any()


def test_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"dianjing\[optimizers\]"):
        check_optimizer(OptimizerConfig(kind="adamw8bit", learning_rate=1.0))
