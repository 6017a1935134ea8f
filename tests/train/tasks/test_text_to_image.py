"""The autoencoder and text-to-image tasks, tiny, and the tokenizers."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, HunyuanDiTPipeline
from PIL import Image
from safetensors.torch import load_file

from dianjing.train.cli import main
from dianjing.train.data.captions import BilingualCaptionEncoder
from dianjing.train.data.latent_cache import encode_frames
from dianjing.train.data.schedule import Bucket
from dianjing.train.run import train_model
from dianjing.train.tasks.autoencoder import AutoencoderTask, kl_loss
from dianjing.train.tasks.text_to_image import TextToImageTask
from dianjing.train.tokenizers import make_bert_tokenizer, make_t5_tokenizer
from dianjing.train.trainer.loop import Outcome
from tests.train.tiny import (
    CAPTIONS,
    TinySource,
    make_autoencoder_config,
    make_batch,
    make_shards,
    make_text_to_image_config,
    never,
    overfit_batch,
)


def test_autoencoder_overfits_one_batch(tmp_path):
    config = make_autoencoder_config(tmp_path)
    batch = make_batch(4)
    task = AutoencoderTask(config.model, config.objective, config.samples, validation_images=batch["images"])
    first, last = overfit_batch(task, batch, steps=60, learning_rate=1e-2)
    assert last < first / 3


def test_text_to_image_overfits_one_batch(tmp_path, vae, tokenizers):
    torch.manual_seed(0)
    config = make_text_to_image_config(tmp_path / "dit", vae=vae, tokenizers=tokenizers)
    captions = BilingualCaptionEncoder(config.model, config.objective)
    task = TextToImageTask(config.model, config.objective, config.samples, captions, size_px=16)
    first, last = overfit_batch(task, make_batch(4, captions), steps=150, learning_rate=3e-3)
    assert last < first / 2


def test_timesteps_of_clips_are_shifted_to_more_noise(tmp_path, vae, tokenizers):
    config = make_text_to_image_config(tmp_path / "dit", vae=vae, tokenizers=tokenizers)
    captions = BilingualCaptionEncoder(config.model, config.objective)
    objective = config.objective.model_copy(update={"clip_timestep_shift": 3.0})
    task = TextToImageTask(config.model, objective, config.samples, captions, size_px=16)
    timesteps_of_length = {
        num_frames: task.sample_noise(
            Bucket(kind="image" if num_frames == 1 else "clip", num_frames=num_frames, shards=make_shards(64)),
            torch.Generator().manual_seed(0),
        )["timestep"]
        for num_frames in (1, 4)
    }
    median = {num_frames: timesteps.float().median().item() for num_frames, timesteps in timesteps_of_length.items()}
    assert abs(median[1] - 500) < 20
    assert abs(median[4] - 750) < 20  # 3 p / (1 + 2 p) at p = 1/2


def test_noise_of_a_batch_decides_as_its_images(tmp_path, vae, tokenizers):
    config = make_text_to_image_config(tmp_path / "dit", vae=vae, tokenizers=tokenizers)
    objective = config.objective.model_copy(update={"couple_choices": True})
    captions = BilingualCaptionEncoder(config.model, objective)
    samples = [
        SimpleNamespace(text_zh="猫", text_en="a cat", choice_intervals=((low, low + 0.25), (0.0, 1.0)))
        for low in (0.0, 0.25, 0.5, 0.75)
    ]
    batch = make_batch(4) | captions(samples, np.full((4, 2), 0.5), kind="image")
    task = TextToImageTask(config.model, objective, config.samples, captions, size_px=16)
    noisy = []
    task.predict = lambda latents, *_: noisy.append(latents) or latents
    noise = task.sample_noise(Bucket(kind="image", num_frames=1, shards=make_shards(4)), torch.Generator())
    noise["timestep"] = torch.full((4,), 999)  # all but noise
    task(batch, noise)
    channel = noisy[0][:, 0].flatten(1)
    quantile = torch.special.ndtr(channel.sum(1) / channel.shape[1] ** 0.5)
    assert (quantile * 4).long().tolist() == [0, 1, 2, 3]


def test_scenes_with_random_placement_take_the_times_at_which_they_are_visible(tmp_path, vae, tokenizers):
    config = make_text_to_image_config(tmp_path / "dit", vae=vae, tokenizers=tokenizers)
    objective = config.objective.model_copy(update={"random_placement_max_time": 0.5})
    captions = BilingualCaptionEncoder(config.model, objective)
    samples = [
        SimpleNamespace(text_zh="猫", text_en="a cat", scene=SimpleNamespace(is_canonical=is_canonical))
        for is_canonical in (True, False, True, False)
    ]
    batch = make_batch(4) | captions(samples, np.full((4, 2), 0.5), kind="image")
    task = TextToImageTask(config.model, objective, config.samples, captions, size_px=16)
    timesteps = []
    task.predict = lambda latents, timestep, *_: timesteps.append(timestep) or latents
    noise = task.sample_noise(Bucket(kind="image", num_frames=1, shards=make_shards(4)), torch.Generator())
    noise["timestep"] = torch.tensor([999, 999, 10, 10])
    task(batch, noise)
    assert timesteps[0].tolist() == [999, 499, 10, 5]


def test_latents_equal_those_of_a_cache_in_the_dtype_of_the_autoencoder(tmp_path, vae, tokenizers):
    config = make_text_to_image_config(tmp_path / "dit", vae=vae, tokenizers=tokenizers)
    captions = BilingualCaptionEncoder(config.model, config.objective)
    task = TextToImageTask(config.model, config.objective, config.samples, captions, size_px=16)
    frozen, _ = task.frozen_modules
    task.frozen_modules = (frozen.to(torch.bfloat16), None)
    images = make_batch(4)["images"]
    latents = task.encode_images(images)
    assert latents.dtype == torch.float32
    assert torch.equal(latents, encode_frames(frozen, [Image.fromarray(image) for image in images.numpy()]).float())


def test_exported_autoencoder_makes_unit_latents(tmp_path):
    config = make_autoencoder_config(tmp_path, export_dtype="float32")
    assert train_model(config, TinySource(), resume="auto", should_stop=never) is Outcome.FINISHED
    vae = AutoencoderKL.from_pretrained(tmp_path / "export" / "vae")
    images = make_batch(64)["images"].permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mode() * vae.config.scaling_factor
    assert 0.8 < latents.std() < 1.25


def test_an_autoencoder_with_the_latents_of_another_has_its_scaling_factor(tmp_path):
    model = {"encoder": "pca", "latent_channels": 2, "block_out_channels": (16, 32), "norm_num_groups": 4}
    first = make_autoencoder_config(tmp_path / "first")
    first = first.model_copy(update={"model": first.model.model_copy(update=model)})
    train_model(first, TinySource(), resume="auto", should_stop=never)
    source = tmp_path / "first" / "export" / "vae"
    run = first.run.model_copy(update={"folder": tmp_path / "second"})
    wider = first.model.model_copy(update={"encoder_from": source, "latent_channels": 3})  # colours
    train_model(first.model_copy(update={"model": wider, "run": run}), TinySource(), resume="auto", should_stop=never)
    before, after = (AutoencoderKL.from_pretrained(path) for path in (source, tmp_path / "second" / "export" / "vae"))
    assert after.config.latent_channels == 3
    assert after.config.scaling_factor == before.config.scaling_factor
    images = make_batch(16)["images"].permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        latents = after.encode(images).latent_dist.mode()
        torch.testing.assert_close(latents[:, :2], before.encode(images).latent_dist.mode(), atol=2e-2, rtol=2e-2)


def test_run_starts_from_exported_weights(tmp_path, vae, tokenizers):
    first = make_text_to_image_config(tmp_path / "first", vae=vae, tokenizers=tokenizers, export_dtype="float32")
    train_model(first, TinySource(), resume="auto", should_stop=never)
    export = tmp_path / "first" / "export"
    model = first.model.model_copy(update={"tokenizers": None, "start_from": export})
    # a rate this low leaves the weights as they came
    second = first.model_copy(
        update={
            "model": model,
            "run": first.run.model_copy(update={"folder": tmp_path / "second"}),
            "optimizer": first.optimizer.model_copy(update={"learning_rate": 1e-12}),
        }
    )
    train_model(second, TinySource(), resume="auto", should_stop=never)
    for part in ("transformer", "text_encoder", "text_encoder_2"):
        (a,), (b,) = ((tmp_path / run / "export" / part).glob("*.safetensors") for run in ("first", "second"))
        before, after = load_file(a), load_file(b)
        assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


def test_start_from_weights_of_another_shape_is_refused(tmp_path, vae):
    config = make_autoencoder_config(tmp_path / "other")
    model = config.model.model_copy(update={"start_from": vae, "latent_channels": 3})
    with pytest.raises(ValueError, match="does not fit") as error:
        train_model(config.model_copy(update={"model": model}), TinySource(), resume="auto", should_stop=never)
    assert str(error.value).count("size mismatch") == 1  # torch lists every weight
    assert "set the [model] section" in str(error.value)


def test_finished_run_resumes_to_the_same_export(tmp_path):
    config = make_autoencoder_config(tmp_path)
    train_model(config, TinySource(), resume="auto", should_stop=never)
    weights = tmp_path / "export" / "vae" / "diffusion_pytorch_model.safetensors"
    before, lines = weights.read_bytes(), (tmp_path / "metrics.jsonl").read_text()
    train_model(config, TinySource(), resume="auto", should_stop=never)
    assert weights.read_bytes() == before
    assert (tmp_path / "metrics.jsonl").read_text() == lines


def test_fresh_start_over_checkpoints_is_refused(tmp_path):
    config = make_autoencoder_config(tmp_path)
    train_model(config, TinySource(), resume="auto", should_stop=never)
    with pytest.raises(ValueError, match="--resume auto"):
        train_model(config, TinySource(), resume="none", should_stop=never)


def test_text_to_image_export_loads_in_diffusers(tmp_path, vae, tokenizers):
    config = make_text_to_image_config(tmp_path / "dit", vae=vae, tokenizers=tokenizers, export_dtype="float32")
    assert train_model(config, TinySource(), resume="auto", should_stop=never) is Outcome.FINISHED
    assert (tmp_path / "dit" / "samples" / "step-00000006.png").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = HunyuanDiTPipeline.from_pretrained(tmp_path / "dit" / "export")
    assert pipe.tokenizer_2.tokenize("A Red balloon") == ["▁a", "▁red", "▁balloon"]
    assert pipe.transformer.config.text_len == 16
    assert pipe.vae.config.scaling_factor != 0.18215


def test_text_to_image_resumes_bit_for_bit(tmp_path, vae, tokenizers):
    runs = {}
    for name, stops in (("uninterrupted", []), ("resumed", [False, True])):
        config = make_text_to_image_config(tmp_path / name, vae=vae, tokenizers=tokenizers, total_steps=4)
        answers = iter([*stops, *[False] * 9])
        while (
            train_model(config, TinySource(), resume="auto", should_stop=lambda a=answers: next(a))
            is Outcome.INTERRUPTED
        ):
            pass
        export = tmp_path / name / "export"
        runs[name] = {p.name: p.read_bytes() for p in sorted(export.rglob("*.safetensors"))}
    assert runs["uninterrupted"] == runs["resumed"]


def test_caption_language_and_dropout_follow_the_uniform_numbers(tmp_path, tokenizers):
    config = make_text_to_image_config(tmp_path, vae=tmp_path, tokenizers=tokenizers)
    captions = BilingualCaptionEncoder(config.model, config.objective)
    samples = [TinySource().get_image_sample(0, 0)] * 3
    batch = captions(samples, np.array([[0.05, 0.0], [0.5, 0.1], [0.5, 0.9]]), kind="image")
    texts = captions.tokenizer.batch_decode(batch["ids"], skip_special_tokens=True)
    assert [text.replace(" ", "") for text in texts] == ["", CAPTIONS[0], "asmallcatonthegrass"]
    assert batch["mask_t5"].sum(dim=1).tolist()[0] == 1  # the end token alone
    assert {tuple(batch[key].shape) for key in batch} == {(3, 16)}


def test_tokenizers_are_the_same_whatever_the_order_of_hashing():
    def dumps(captions):
        bert = make_bert_tokenizer(captions, model_max_length=16)
        t5 = make_t5_tokenizer(captions, names=["气球", "小猫"], model_max_length=16)
        return bert.backend_tokenizer.to_str(), t5.backend_tokenizer.to_str()

    assert dumps(CAPTIONS) == dumps(CAPTIONS[::-1])


def test_names_are_one_token_and_unknown_words_are_spelt():
    t5 = make_t5_tokenizer(CAPTIONS, names=["气球", "小猫"], model_max_length=16)
    assert "小猫" in t5.tokenize("草地上的一只小猫")
    assert t5.tokenize("Cat") == ["▁cat"]
    assert t5.unk_token_id not in t5("zebra")["input_ids"]
    bert = make_bert_tokenizer(CAPTIONS, model_max_length=16)
    assert bert.tokenize("一只小猫 Cat") == ["一", "只", "小", "猫", "cat"]
    assert bert.unk_token not in bert.tokenize("zebra")


def test_kl_is_zero_at_the_prior_and_equals_torchs():
    mean, log_variance = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    prior = torch.distributions.Normal(0.0, 1.0)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(posterior, prior).mean()
    torch.testing.assert_close(kl_loss(mean, log_variance), expected)


def test_command_line_refuses_a_missing_config_with_code_2(tmp_path, capsys):
    assert main([str(tmp_path / "none.toml")]) == 2
    assert "none.toml" in capsys.readouterr().err
