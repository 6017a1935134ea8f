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


def test_before_training_the_encoders_give_what_the_cache_would(tmp_path, finetune_config):
    changes = {**JOINT, "objective": {"caption_dropout": 0.3}}
    frozen = {**changes, "model": {"trainable": "all"}}
    jobs = [
        build_setup(finetune_config(tmp_path / name, changes=which))
        for name, which in (("joint", changes), ("frozen", frozen))
    ]
    for index in range(4):
        batches = [job.batches[index] for job in jobs]
        assert torch.equal(batches[0]["latents"], batches[1]["latents"])
        with torch.no_grad():
            texts = [job.task._get_text_states(batch) for job, batch in zip(jobs, batches, strict=True)]
        for (states, mask), (expected, expected_mask) in zip(*texts, strict=True):
            torch.testing.assert_close(states, expected)
            assert torch.equal(mask, expected_mask)


def test_no_text_states_are_cached(tmp_path, finetune_config):
    build_setup(finetune_config(tmp_path / "run", changes=JOINT))
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 9


def test_gradients_reach_both_encoders_and_one_batch_is_learnt(tmp_path, finetune_config):
    job = build_setup(finetune_config(tmp_path / "run", changes=JOINT))
    losses = overfit(job, steps=60, learning_rate=1e-2)
    assert losses[-1] < 0.8 * losses[0]
    trained = [(name, p) for name, p in job.task.text_encoders.named_parameters() if p.requires_grad]
    assert {name.split(".")[0] for name, _ in trained} == set(ENCODERS)
    assert all(p.grad is not None for _, p in trained)


def test_run_measures_exports_and_resumes_with_its_own_encoders(tmp_path, model, finetune_config):
    runs = {}
    for name, stops in (("whole", []), ("stopped", [False, False, True])):
        config = finetune_config(tmp_path / name, changes=JOINT)
        answers = iter([*stops, *[False] * 99])
        while train_model(config, resume="auto", should_stop=lambda a=answers: next(a)) is Outcome.INTERRUPTED:
            pass
        runs[name] = TextToImagePipeline.from_pretrained(get_export_folder(config))
    assert "validation_mse_en" in (tmp_path / "whole" / "metrics.jsonl").read_text()
    before = TextToImagePipeline.from_pretrained(model)
    for part in ENCODERS:
        first, whole, stopped = (getattr(pipe, part).state_dict() for pipe in (before, *runs.values()))
        assert any(not torch.equal(first[key], whole[key]) for key in first)
        assert all(torch.equal(whole[key], stopped[key]) for key in whole)
    assert runs["whole"]("小猫", num_inference_steps=1).images


def test_joint_encoders_beside_an_adapter_are_refused(tmp_path, finetune_config):
    with pytest.raises(ValueError, match="it takes trainable = 'all'"):
        finetune_config(tmp_path, changes={"model": {"text_encoders": "joint"}})


def test_plan_counts_the_encoders(tmp_path, model, finetune_config):
    config = finetune_config(tmp_path / "run", changes=JOINT)
    found = memory_estimate.estimate_memory(config, model, (16, 16), num_processes=1, device=CPU)
    task = build_setup(config).task
    assert found.num_trainable == sum(p.numel() for p in task.parameters() if p.requires_grad)
    frozen = {**JOINT, "model": {"trainable": "all"}}
    without = memory_estimate.estimate_memory(
        finetune_config(tmp_path / "run", changes=frozen), model, (16, 16), num_processes=1, device=CPU
    )
    task.transformer.requires_grad_(False)
    batch = build_setup(config).batches[0]
    own = {p.untyped_storage().data_ptr() for p in task.parameters()}
    with step_profile.track_saved(own) as storages:
        task._get_text_states(batch)
    more = (found.activations - without.activations) / memory_estimate.CPU_HEAP_FACTOR
    assert more == pytest.approx(sum(storages.values()), rel=0.15)
