"""A result of NaN or infinity is an error that names the part of the model that computed it, never an image."""

import pytest
import torch

from dianjing import Conversation, DianjingError, TextToImagePipeline, TextToVideoPipeline


def spoil(pipe, part):
    """Let a part of the model compute NaN: its last bias is NaN."""
    module = pipe.vae.decoder.conv_out if part == "AutoencoderKL" else pipe.transformer.proj_out
    with torch.no_grad():
        module.bias.fill_(torch.nan)


@pytest.mark.parametrize(("part", "output_type"), [("DiT", "pil"), ("DiT", "latent"), ("AutoencoderKL", "np")])
def test_an_image_that_is_not_finite_is_an_error_that_names_the_part(own_pipe, part, output_type):
    spoil(own_pipe, part)
    with pytest.raises(DianjingError, match=f"{part} computed NaN or infinity in float32") as refusal:
        own_pipe("a cat", num_inference_steps=1, output_type=output_type)
    assert refusal.value.message_id == "result_not_finite"


@pytest.mark.parametrize("part", ["DiT", "AutoencoderKL"])
@pytest.mark.parametrize("num_frames", [3, 6])
def test_a_video_that_is_not_finite_is_an_error_that_names_the_part(video_folder, part, num_frames):
    pipe = TextToVideoPipeline.from_pretrained(video_folder)
    spoil(pipe, part)
    with pytest.raises(DianjingError, match=f"{part} computed NaN or infinity"):
        pipe("a cat", num_frames=num_frames, num_inference_steps=1)


@pytest.mark.parametrize("part", ["DiT", "AutoencoderKL"])
def test_a_turn_that_is_not_finite_leaves_the_conversation(own_pipe, part):
    conversation = Conversation(own_pipe, num_inference_steps=1)
    first = conversation.send("a cat on the grass")
    spoil(own_pipe, part)
    with pytest.raises(DianjingError, match=f"{part} computed NaN or infinity"):
        conversation.send("on the beach")
    assert conversation.turns == (first,)


def test_an_overflow_of_the_vae_in_half_precision_is_an_error(hunyuan_folder):
    pipe = TextToImagePipeline.from_pretrained(hunyuan_folder, dtype=torch.float16)
    with torch.no_grad():
        pipe.vae.decoder.conv_out.weight.mul_(60000)
    with pytest.raises(DianjingError, match="AutoencoderKL computed NaN or infinity in float16"):
        pipe("a cat", num_inference_steps=1)
