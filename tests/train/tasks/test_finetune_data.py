"""Settings of data sets in a fine-tuning run: masks of the loss, padding, mirrored samples, prompts from captions."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from dianjing.train.data.fitting import fit_image
from dianjing.train.run import train_model
from dianjing.train.trainer.loop import Outcome
from tests.train.finetuning import build_setup
from tests.train.tiny import CAPTIONS, UNINTERRUPTED


@pytest.fixture
def half_opaque(tmp_path, datasets_file):
    """The data set file, whose images are opaque on the left alone."""
    for path in (tmp_path / "pictures").glob("*.png"):
        image = Image.open(path).convert("RGBA")
        alpha = np.zeros((image.height, image.width), np.uint8)
        alpha[:, : image.width // 2] = 255
        image.putalpha(Image.fromarray(alpha))
        image.save(path)

    def write(**settings):
        lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
        datasets_file.write_text(f'[[datasets]]\npath = "pictures"\n{lines}')

    return write


def get_batches(setup):
    return [setup.batches[step] for step in range(setup.batches.schedule.steps_per_epoch)]


def test_alpha_weighs_the_loss_of_each_latent_cell(tmp_path, finetune_config, half_opaque):
    half_opaque(loss_mask='"alpha"')
    for batch in get_batches(build_setup(finetune_config(tmp_path / "run"))):
        _, _, rows, columns = batch["latents"].shape
        assert batch["loss_mask"].shape == (2, rows, columns)
        assert (batch["loss_mask"][..., : columns // 2] == 1).all()
        assert (batch["loss_mask"][..., (columns + 1) // 2 :] == 0).all()
    half_opaque()
    assert "loss_mask" not in get_batches(build_setup(finetune_config(tmp_path / "run")))[0]


def test_the_loss_is_the_mean_over_what_counts(tmp_path, finetune_config):
    setup = build_setup(finetune_config(tmp_path / "run", changes={"model": {"trainable": "all"}}))
    batch = dict(setup.batches[0])
    noise = setup.task.sample_noise(setup.batches.schedule.bucket_at(0), torch.Generator().manual_seed(0))
    left = torch.zeros(batch["latents"].shape[:1] + batch["latents"].shape[2:])
    left[..., : left.shape[-1] // 2] = 1
    with torch.no_grad():
        full, parts = (
            setup.task(batch, noise)["mse"],
            [setup.task(batch | {"loss_mask": mask}, noise)["mse"] for mask in (left, 1 - left)],
        )
    torch.testing.assert_close(sum(parts) / 2, full)
    assert parts[0] != parts[1]


def test_padded_and_mirrored_samples_are_encoded_as_such(tmp_path, model, finetune_config, half_opaque):
    half_opaque(fit='"pad"', flip="true", repeats=2)
    setup, vae = build_setup(finetune_config(tmp_path / "run")), AutoencoderKL.from_pretrained(model / "vae")
    schedule, mirrored = setup.batches.schedule, []
    for step in range(schedule.steps_per_epoch):
        bucket = schedule.bucket_at(step)
        for row, latents in enumerate(setup.batches[step]["latents"]):
            record = schedule.get_sample(step, row).record
            image = Image.open(tmp_path / "pictures" / record.name.removesuffix(" (mirrored)"))
            white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
            fitted = fit_image(white, record, height=bucket.height, width=bucket.width)
            pixels = torch.from_numpy(np.array(fitted)).permute(2, 0, 1)[None] / 127.5 - 1
            with torch.no_grad():
                expected = vae.encode(pixels).latent_dist.mode()[0] * vae.config.scaling_factor
            torch.testing.assert_close(latents, expected)
            mirrored.append(record.is_flipped)
    assert 0.25 < sum(mirrored) / len(mirrored) < 0.75


@pytest.mark.parametrize(("samples", "expected"), [({"prompts": ["小猫"]}, 1), ({"prompts": []}, 0), (None, 4)])
def test_prompts_that_the_run_file_leaves_out_are_captions_of_the_data(tmp_path, finetune_config, samples, expected):
    config = finetune_config(tmp_path / "run", total_steps=1)
    update = {"prompts": None if samples is None else tuple(samples["prompts"])}
    config = config.model_copy(update={"samples": config.samples.model_copy(update=update)})
    prompts = build_setup(config).task.config.samples.prompts
    assert len(prompts) == expected
    assert samples is not None or set(prompts) <= set(CAPTIONS)
    assert train_model(config, **UNINTERRUPTED) is Outcome.FINISHED


def test_the_caption_dropout_of_a_data_set_replaces_that_of_the_run(tmp_path, finetune_config, half_opaque):
    changes = {"objective": {"caption_dropout": 0.0, "caption_dropout_t5": 0.0}}
    half_opaque(caption_dropout=1.0)
    setup = build_setup(finetune_config(tmp_path / "run", changes=changes))
    empty, _ = setup.batches.latent_cache.load_text_states("", "text_encoder")
    assert all(torch.equal(states, empty) for batch in get_batches(setup) for states in batch["embeds"])
