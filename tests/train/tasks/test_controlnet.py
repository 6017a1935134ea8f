"""A ControlNet for line art: it starts as the identity, learns, and its export works in diffusers."""

import numpy as np
import pytest
import torch
from diffusers import HunyuanDiT2DControlNetModel, HunyuanDiTControlNetPipeline
from PIL import Image
from safetensors.torch import load_file

from dianjing import TextToImagePipeline
from dianjing.errors import DianjingError
from dianjing.pipelines.control_maps import detect_canny_edges
from dianjing.train import memory_estimate
from dianjing.train.run import train_model
from dianjing.train.tasks.controlnet import init_controlnet
from dianjing.train.trainer.loop import Outcome
from tests.train.finetuning import (
    CPU,
    build_setup,
    extrapolate_saved_bytes,
    get_export_folder,
    load_transformer_config,
    make_finetune_config,
    overfit,
)
from tests.train.tiny import UNINTERRUPTED

CONTROLNET = {"model": {"trainable": "controlnet"}}


@pytest.fixture
def setup(tmp_path, finetune_config):
    return build_setup(finetune_config(tmp_path / "run", changes=CONTROLNET))


def test_new_controlnet_changes_nothing(setup):
    task, batch = setup.task, setup.batches[0]
    noise = setup.task.sample_noise(setup.batches.schedule.bucket_at(0), torch.Generator().manual_seed(0))
    with torch.no_grad():
        inputs = task._make_model_inputs(batch, noise["latents"])
        timestep = noise["timestep"].float()
        plain = task.transformer(noise["latents"], timestep, **inputs, return_dict=False)[0]
        torch.testing.assert_close(task._predict(noise["latents"], timestep, batch), plain, atol=0, rtol=0)


def test_it_alone_is_trained_and_overfits_one_batch(setup):
    assert all(name.startswith("controlnet.") for name, p in setup.task.named_parameters() if p.requires_grad)
    losses = overfit(setup, steps=100, learning_rate=3e-2)
    assert losses[-1] < 0.8 * losses[0]


def test_batches_hold_the_latents_of_line_art(setup, model):
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(model / "vae")
    sample = setup.batches.schedule.get_sample(0, 0)
    lines = np.asarray(detect_canny_edges(Image.fromarray(sample.image))).copy()
    assert set(np.unique(lines)) == {0, 255}
    with torch.no_grad():
        pixels = torch.from_numpy(lines).permute(2, 0, 1)[None] / 127.5 - 1
        expected = vae.encode(pixels).latent_dist.mode()[0] * vae.config.scaling_factor
    torch.testing.assert_close(setup.batches[0]["control"][0], expected)


def test_run_exports_a_controlnet_that_changes_our_pipelines_images(tmp_path, model, finetune_config):
    config = finetune_config(tmp_path / "run", changes=CONTROLNET)
    assert train_model(config, **UNINTERRUPTED) is Outcome.FINISHED
    saved = load_file(tmp_path / "run" / "checkpoints" / "step-00000006" / "model.safetensors")
    assert saved
    assert all(name.startswith("controlnet.") for name in saved)
    export = get_export_folder(config)
    pipe = TextToImagePipeline.from_pretrained(model, controlnet=export)
    trained = HunyuanDiT2DControlNetModel.from_pretrained(export).state_dict()
    for each in (
        pipe,
        TextToImagePipeline.from_pipe(TextToImagePipeline.from_pretrained(model), controlnet=str(export)),
    ):
        weights = each.controlnet.state_dict()
        assert all(torch.equal(weights[name], weight) for name, weight in trained.items())
    line_art = detect_canny_edges(Image.open(tmp_path / "pictures" / "0.png"))
    settings = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "np"}
    plain, controlled = (
        pipe("小猫", generator=torch.Generator().manual_seed(0), control_image=image, **settings).images
        for image in (None, line_art)
    )
    assert np.abs(plain - controlled).max() > 1e-4


@pytest.mark.parametrize("kind", ["missing", "file", "adapter"])
def test_path_without_a_controlnet_is_refused_before_weights_load(tmp_path, model, kind, monkeypatch):
    path = tmp_path / kind
    if kind == "file":
        path.write_bytes(b"")
    elif kind == "adapter":
        path.mkdir()
        (path / "pytorch_lora_weights.safetensors").write_bytes(b"")
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", None)
    with pytest.raises(DianjingError, match="ControlNet") as error:
        TextToImagePipeline.from_pretrained(model, controlnet=path)
    assert str(path) in error.value.render("zh")


def test_diffusers_pipeline_generates_the_same_with_the_export_as_ours(
    tmp_path, make_hunyuan, datasets_file, monkeypatch
):
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    plain = make_hunyuan()
    plain.save_pretrained(tmp_path / "model")
    changes = {**CONTROLNET, "data": {"size_px": 32}, "samples": {"prompts": []}}
    config = make_finetune_config(
        tmp_path / "run", model=tmp_path / "model", datasets_file=datasets_file, changes=changes
    )
    train_model(config, **UNINTERRUPTED)
    controlnet = HunyuanDiT2DControlNetModel.from_pretrained(get_export_folder(config))
    parts = {k: part for k, part in plain.components.items() if k not in ("safety_checker", "feature_extractor")}
    theirs = HunyuanDiTControlNetPipeline(
        **parts, controlnet=controlnet, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    ours = TextToImagePipeline.from_pretrained(tmp_path / "model", controlnet=controlnet)
    line_art = Image.effect_noise((64, 64), 80).convert("RGB")
    settings = {"num_inference_steps": 3, "height": 64, "width": 64, "guidance_scale": 4.0, "output_type": "latent"}
    both = [
        pipe(
            "小猫",
            control_image=line_art,
            use_resolution_binning=False,
            generator=torch.Generator().manual_seed(0),
            **settings,
        ).images
        for pipe in (theirs, ours)
    ]
    assert (both[1] - both[0]).norm() <= 1e-4 * both[0].norm()


def test_transformer_with_an_odd_number_of_blocks_is_refused(model):
    from dianjing.dit import DiT

    with pytest.raises(ValueError, match="5 blocks; a ControlNet needs an even number"):
        init_controlnet(DiT.from_config(load_transformer_config(model) | {"num_layers": 5}))


def test_memory_of_a_controlnet_is_extrapolated_to_the_byte(tmp_path, model, finetune_config):
    config = finetune_config(tmp_path, changes=CONTROLNET)
    extrapolated, measured = extrapolate_saved_bytes(
        config, model, load_transformer_config(model) | {"num_layers": 10}, (16, 16)
    )
    assert extrapolated == measured
    estimate = memory_estimate.estimate_memory(config, model, (16, 16), num_processes=1, device=CPU)
    task = build_setup(config).task
    assert estimate.num_trainable == sum(p.numel() for p in task.parameters() if p.requires_grad)
    assert estimate.num_frozen == sum(p.numel() for p in task.parameters() if not p.requires_grad)
