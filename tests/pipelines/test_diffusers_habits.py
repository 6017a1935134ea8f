"""Habits of diffusers' users: other processors, numpy and broken embeddings, recorded steps, and a quiet stderr."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import HeunDiscreteScheduler
from diffusers.models.attention_processor import AttnProcessor2_0, HunyuanAttnProcessor2_0

from dianjing import DianjingError
from dianjing.dit.attention import DiTAttnProcessor
from dianjing.pipelines.media.metadata import get_sampling_metadata

FIRST_IMAGE = """
import sys
from dianjing import TextToImagePipeline
pipe = TextToImagePipeline.from_pretrained("sticker")
pipe.set_progress_bar_config(disable=True)
pipe("a cat", num_inference_steps=1)
print("verbosity: info", file=sys.stderr)
from diffusers.utils import logging
logging.set_verbosity_info()
TextToImagePipeline.from_pretrained("sticker")
"""


def encode(pipe):
    embeds = pipe.encode_texts(["a cat"])
    return {name: tensor for name, tensor in vars(embeds).items() if tensor is not None}


def test_embeddings_of_numpy_are_refused_with_the_conversion(pipe, generate_latents):
    tensors = encode(pipe)
    for name in tensors:
        with pytest.raises(DianjingError, match=rf"{name} is a numpy\.ndarray.*torch\.from_numpy"):
            generate_latents(pipe, None, **{**tensors, name: tensors[name].detach().numpy()}, guidance_scale=1.0)
    with pytest.raises(DianjingError, match="latents is a numpy"):
        generate_latents(pipe, latents=np.zeros((1, 4, 8, 8), np.float32))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_embeddings_and_latents_that_are_not_finite_are_refused(pipe, generate_latents, value):
    tensors = encode(pipe)
    for name in ("prompt_embeds", "prompt_embeds_2"):
        broken = tensors[name].clone()
        broken[0, 0, 0] = value
        with pytest.raises(DianjingError, match=f"{name} holds NaN or infinity"):
            generate_latents(pipe, None, **{**tensors, name: broken}, guidance_scale=1.0)
    with pytest.raises(DianjingError, match="latents holds NaN"):
        generate_latents(pipe, latents=torch.full((1, 4, 8, 8), value))


def test_a_scheduler_of_second_order_records_and_shows_the_steps_of_the_call(own_pipe, generate_latents, capfd):
    own_pipe.scheduler = HeunDiscreteScheduler.from_config(own_pipe.trained_scheduler.config)
    own_pipe.set_progress_bar_config(disable=False)
    generate_latents(own_pipe, num_inference_steps=20)
    assert get_sampling_metadata(own_pipe)["num_inference_steps"] == 20
    assert "20/20" in capfd.readouterr().err


@pytest.mark.parametrize("processor", [AttnProcessor2_0(), HunyuanAttnProcessor2_0()])
def test_an_attention_processor_of_diffusers_is_refused_with_the_reason(own_pipe, generate_latents, processor):
    with pytest.raises(DianjingError, match=r"DiTAttnProcessor.*HunyuanDiTPAGPipeline"):
        own_pipe.transformer.set_attn_processor(processor)
    assert generate_latents(own_pipe).isfinite().all()


def test_an_attention_processor_of_ones_own_acts(own_pipe, generate_latents):
    class Doubled(DiTAttnProcessor):
        def __call__(self, *args, **kwargs):
            return 2 * super().__call__(*args, **kwargs)

    plain = generate_latents(own_pipe)
    own_pipe.transformer.set_attn_processor(Doubled())
    assert len(own_pipe.transformer.attn_processors) == 2 * len(own_pipe.transformer.blocks)
    assert not torch.allclose(generate_latents(own_pipe), plain, atol=1e-3)


def test_the_first_image_prints_no_notices_of_other_libraries():
    run = subprocess.run([sys.executable, "-c", FIRST_IMAGE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    by_default, at_info = run.stderr.split("verbosity: info")
    for notice in ("Loading weights", "torchvision", "gemm_4bit", "float16"):
        assert notice not in by_default
    assert "Loading weights" in at_info


@pytest.mark.parametrize(("verbosity", "is_silent"), [("warning", True), ("info", False)])
def test_modules_of_the_package_are_imported_without_notices_of_kernels(verbosity, is_silent):
    code = "import logging, dianjing.cli; print(logging.getLogger('bitsandbytes').isEnabledFor(logging.WARNING))"
    environment = {**os.environ, "DIFFUSERS_VERBOSITY": verbosity}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(not is_silent)
