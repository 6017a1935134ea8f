"""Prior preservation: the base model's own predictions for other captions are kept."""

import pytest
import torch

from dianjing.dit import DiT
from dianjing.errors import DianjingError
from dianjing.pipelines.prompting.concepts import ConceptVocabulary
from dianjing.pipelines.prompting.vocabulary import Vocabulary
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.train.data import prior_images
from dianjing.train.data.prior_captions import PRIOR_PREFIX, caption_concepts, make_prior_captions
from dianjing.train.run import train_model
from dianjing.train.trainer.verify_resume import find_resume_differences
from dianjing.weights.resolve import resolve_model
from tests.train.finetuning import build_setup, overfit
from tests.train.tiny import UNINTERRUPTED

PRIOR = {"objective": {"prior_preservation": 1.0, "prior_captions": ["a red balloon", "小猫", "a cat"]}}


@pytest.fixture(autouse=True)
def four_images(monkeypatch):
    """Few images to preserve: a tiny model takes long enough for them."""
    monkeypatch.setattr(prior_images, "MIN_NUM_IMAGES", 4)


def compute_prior_error(task, batch, noise):
    with torch.no_grad():
        return task(batch, noise)["prior_mse"].item()


@pytest.fixture
def step(tmp_path, finetune_config):
    """The task of a run with prior preservation, its first batch and its noise."""
    setup = build_setup(finetune_config(tmp_path / "run", changes=PRIOR))
    noise = setup.task.sample_noise(setup.batches.schedule.bucket_at(0), torch.Generator().manual_seed(0))
    return setup.task, setup.batches[0], noise


def test_target_is_the_prediction_of_the_model_without_its_adapter(step, model):
    task, batch, noise = step
    assert compute_prior_error(task, batch, noise) < 1e-12  # a new adapter changes nothing
    for name, weight in task.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(1))
    base = DiT.from_pretrained(model / "transformer")
    prior = {key.removeprefix(PRIOR_PREFIX): value for key, value in batch.items() if key.startswith(PRIOR_PREFIX)}
    timestep = noise["prior_timestep"]
    noisy = task.noise_process.add_noise(batch["prior_latents"].float(), noise["prior_latents"], timestep)
    with torch.no_grad():
        inputs = task._make_model_inputs(batch | prior, noisy)
        difference = (
            task.transformer(noisy, timestep.float(), **inputs, return_dict=False)[0]
            - base(noisy, timestep.float(), **inputs, return_dict=False)[0]
        )
    assert compute_prior_error(task, batch, noise) == pytest.approx(difference.square().mean().item(), rel=1e-4)
    assert difference.abs().max() > 1e-2


def test_images_are_what_the_base_model_generates_of_the_captions(tmp_path, finetune_config, model):
    images = build_setup(finetune_config(tmp_path / "run", changes=PRIOR)).batches.images
    assert len(images) == 4
    pipe = TextToImagePipeline.from_pretrained(model)
    captions = PRIOR["objective"]["prior_captions"]
    for index, caption in enumerate([*captions, captions[0]]):
        generator = torch.Generator().manual_seed(index)
        settings = {"height": 16, "width": 16, "num_inference_steps": 20, "output_type": "latent"}
        expected = pipe(caption, generator=generator, **settings).images[0]
        torch.testing.assert_close(images.load(index), expected, atol=1e-5, rtol=1e-5)
    assert not torch.equal(images.load(0), images.load(3))  # one caption, two seeds


def test_wide_samples_are_trained_with_square_images(tmp_path, finetune_config):
    setup = build_setup(finetune_config(tmp_path / "run", changes=PRIOR))
    schedule = setup.batches.schedule
    step = next(step for step in range(50) if schedule.bucket_at(step).width != schedule.bucket_at(step).height)
    noise = setup.task.sample_noise(schedule.bucket_at(step), torch.Generator().manual_seed(0))
    batch = setup.batches[step]
    assert batch["latents"].shape[-1] > batch["latents"].shape[-2]
    assert batch["prior_latents"].shape == noise["prior_latents"].shape
    assert torch.isfinite(setup.task(batch, noise)["loss"])


def test_adapter_stays_trainable_after_the_pass_of_the_base_model(step):
    task, batch, noise = step
    task(batch, noise)["loss"].backward()
    adapted = {name: weight for name, weight in task.named_parameters() if "lora_B" in name}
    assert adapted
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in adapted.values())
    assert all(weight.grad is None for name, weight in task.named_parameters() if "lora" not in name)


def test_preserved_captions_change_less(tmp_path, finetune_config):
    errors = []
    for weight in (1e-6, 30.0):
        torch.manual_seed(0)
        changes = {"objective": {**PRIOR["objective"], "prior_preservation": weight}}
        setup = build_setup(finetune_config(tmp_path / f"run-{weight}", changes=changes))
        losses = overfit(setup, steps=40, learning_rate=1e-2)
        assert losses[-1] < losses[0]
        noise = setup.task.sample_noise(setup.batches.schedule.bucket_at(0), torch.Generator().manual_seed(5))
        errors.append(compute_prior_error(setup.task, setup.batches[0], noise))
    assert errors[1] < errors[0] / 3


def test_run_with_prior_preservation_resumes_bit_for_bit_and_logs_its_error(tmp_path, finetune_config):
    config = finetune_config(tmp_path / "run", changes=PRIOR)
    assert find_resume_differences(config) == []
    train_model(config, **UNINTERRUPTED)
    assert '"prior_mse"' in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_captions_differ_from_row_to_row_and_step_to_step(tmp_path, finetune_config):
    captions = ["小猫", "a balloon", "海上的红色气球"]
    changes = {"objective": {"prior_preservation": 1.0, "prior_captions": captions, "caption_dropout": 0.0}}
    batches = build_setup(finetune_config(tmp_path / "run", changes=changes, batch_size=3)).batches
    states = torch.cat([batches[step]["prior_embeds"] for step in range(8)]).flatten(1)
    assert len(torch.unique(states, dim=0)) == 3
    assert torch.equal(batches[3]["prior_embeds"], batches[3]["prior_embeds"])


def test_prior_preservation_needs_an_adapter(tmp_path, finetune_config):
    with pytest.raises(DianjingError, match="prior_preservation = 0"):
        finetune_config(tmp_path / "run", changes={**PRIOR, "model": {"trainable": "all"}})


def test_captions_of_a_bundle_name_all_its_objects_in_both_languages(tmp_path):
    folder = resolve_model("sticker")
    captions = make_prior_captions(folder)
    assert len(set(captions)) == len(captions)
    concepts = ConceptVocabulary.from_file(folder / "concepts.json")
    vocabulary = Vocabulary.from_file(folder / "vocabulary.json")
    assert [word for text in captions for word in vocabulary.find_unknown_words(text)] == []
    unnamed = [
        each.names_en[0]
        for each in concepts.objects
        if not any(
            name and name in text
            for text in captions
            for name in (each.names_en[0], *each.plurals_en, each.names_zh[0])
        )
    ]
    assert unnamed == []
    assert caption_concepts(concepts) == captions
    assert sum("\u4e00" <= text[0] <= "\u9fff" for text in captions) == len(captions) / 2


def test_model_without_concepts_gets_common_captions(tmp_path):
    captions = make_prior_captions(tmp_path)
    assert len(set(captions)) == len(captions) == 96
    assert 30 < sum("\u4e00" <= text[-1] <= "\u9fff" for text in captions) < 66
