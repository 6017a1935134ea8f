"""Text encoders trained together with the transformer, on captions as tokens."""

import pytest
import torch

from dianjing import TextToImagePipeline
from dianjing.train import memory_estimate, step_profile
from dianjing.train.run import train_model
from dianjing.train.trainer.loop import Outcome
from tests.train.finetuning import CPU, build_setup, get_export_folder, overfit

JOINT = {"model": {"trainable": "all", "text_encoders": "joint"}, "data": {"validation_fraction": 0.3}}
ENCODERS = ("text_encoder", "text_encoder_2")


def test_untrained_encoders_give_the_same_states_as_the_cache(tmp_path, finetune_config):
    changes = {**JOINT, "objective": {"caption_dropout": 0.3}}
    frozen = {**changes, "model": {"trainable": "all"}}
    setups = [
        build_setup(finetune_config(tmp_path / name, changes=which))
        for name, which in (("joint", changes), ("frozen", frozen))
    ]
    for index in range(4):
        batches = [setup.batches[index] for setup in setups]
        assert torch.equal(batches[0]["latents"], batches[1]["latents"])
        with torch.no_grad():
            texts = [setup.task._get_text_states(batch) for setup, batch in zip(setups, batches, strict=True)]
        for (states, mask), (expected, expected_mask) in zip(*texts, strict=True):
            torch.testing.assert_close(states, expected)
            assert torch.equal(mask, expected_mask)


def test_no_text_states_are_cached(tmp_path, finetune_config):
    build_setup(finetune_config(tmp_path / "run", changes=JOINT))
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 9


def test_gradients_reach_both_encoders_and_one_batch_is_overfitted(tmp_path, finetune_config):
    setup = build_setup(finetune_config(tmp_path / "run", changes=JOINT))
    losses = overfit(setup, steps=60, learning_rate=1e-2)
    assert losses[-1] < 0.8 * losses[0]
    trained = [(name, p) for name, p in setup.task.text_encoders.named_parameters() if p.requires_grad]
    assert {name.split(".")[0] for name, _ in trained} == set(ENCODERS)
    assert all(p.grad is not None for _, p in trained)


def test_run_validates_exports_and_resumes_with_its_encoders(tmp_path, model, finetune_config):
    runs = {}
    for name, stops in (("uninterrupted", []), ("resumed", [False, False, True])):
        config = finetune_config(tmp_path / name, changes=JOINT)
        answers = iter([*stops, *[False] * 99])
        while train_model(config, resume="auto", should_stop=lambda a=answers: next(a)) is Outcome.INTERRUPTED:
            pass
        runs[name] = TextToImagePipeline.from_pretrained(get_export_folder(config))
    assert "validation_mse_en" in (tmp_path / "uninterrupted" / "metrics.jsonl").read_text()
    before = TextToImagePipeline.from_pretrained(model)
    for part in ENCODERS:
        before_state, expected, resumed = (getattr(pipe, part).state_dict() for pipe in (before, *runs.values()))
        assert any(not torch.equal(before_state[key], expected[key]) for key in before_state)
        assert all(torch.equal(expected[key], resumed[key]) for key in expected)
    assert runs["uninterrupted"]("小猫", num_inference_steps=1).images


def test_joint_encoders_with_an_adapter_are_refused(tmp_path, finetune_config):
    with pytest.raises(ValueError, match="set trainable = 'all'"):
        finetune_config(tmp_path, changes={"model": {"text_encoders": "joint"}})


def test_memory_estimate_counts_the_encoders(tmp_path, model, finetune_config):
    config = finetune_config(tmp_path / "run", changes=JOINT)
    estimate = memory_estimate.estimate_memory(config, model, (16, 16), num_processes=1, device=CPU)
    task = build_setup(config).task
    assert estimate.num_trainable == sum(p.numel() for p in task.parameters() if p.requires_grad)
    frozen = {**JOINT, "model": {"trainable": "all"}}
    without = memory_estimate.estimate_memory(
        finetune_config(tmp_path / "run", changes=frozen), model, (16, 16), num_processes=1, device=CPU
    )
    task.transformer.requires_grad_(False)
    batch = build_setup(config).batches[0]
    own = {p.untyped_storage().data_ptr() for p in task.parameters()}
    with step_profile.track_saved(own) as storages:
        task._get_text_states(batch)
    more = (estimate.activations - without.activations) / memory_estimate.CPU_HEAP_FACTOR
    assert more == pytest.approx(sum(storages.values()), rel=0.15)
