"""Region animation with HunyuanVideo pipelines of tiny random weights: a region moves and the rest stands still."""

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from PIL import Image

from dianjing.pipelines.segmentation.base import Region
from dianjing.pipelines.video.region_animation import animate_regions, encode_still_video, masked_steps

SIZE, FRAMES = 64, 9


def make_pipe(condition: str) -> HunyuanVideoImageToVideoPipeline:
    torch.manual_seed(0)
    concat = condition == "latent_concat"
    pipe = HunyuanVideoImageToVideoPipeline(
        transformer=HunyuanVideoTransformer3DModel(
            in_channels=9 if concat else 4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=1,
            patch_size_t=1,
            guidance_embeds=not concat,
            text_embed_dim=16,
            pooled_projection_dim=8,
            rope_axes_dim=(2, 4, 4),
            image_condition_type=condition,
        ),
        vae=AutoencoderKLHunyuanVideo(
            latent_channels=4,
            down_block_types=("HunyuanVideoDownBlock3D",) * 4,
            up_block_types=("HunyuanVideoUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        image_processor=None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_image() -> Image.Image:
    pixels = np.full((SIZE, SIZE, 3), 90, np.uint8)
    pixels[8:24, 8:24] = (220, 40, 40)
    return Image.fromarray(pixels)


def make_region() -> Region:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[8:24, 8:24] = True
    return Region(motion="jump", mask=mask)


def make_prompt_embeds() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "prompt_embeds": torch.randn(1, 12, 16, generator=generator),
        "pooled_prompt_embeds": torch.randn(1, 8, generator=generator),
        "prompt_attention_mask": torch.ones(1, 12, dtype=torch.long),
    }


@pytest.mark.parametrize("condition", ["latent_concat", "token_replace"])
def test_the_image_stands_still_outside_the_reach_of_the_region_and_moves_inside(condition):
    pipe = make_pipe(condition)
    latents = animate_regions(
        pipe,
        make_image(),
        [make_region()],
        height=SIZE,
        width=SIZE,
        num_frames=FRAMES,
        max_displacement=0.1,
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **make_prompt_embeds(),
    ).frames
    static = encode_still_video(pipe.vae, make_image(), num_frames=FRAMES)[:, :, -latents.shape[2] :]
    difference = (latents - static).abs()[:, :, 1:]
    assert difference[..., 5:, 5:].max() < 1e-5
    assert difference[..., 1:3, 1:3].mean() > 0.1


def test_the_scheduler_is_restored_also_after_an_error():
    scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(RuntimeError), masked_steps(scheduler, *torch.zeros(3, 1)):
        raise RuntimeError
    assert scheduler.step == FlowMatchEulerDiscreteScheduler.step.__get__(scheduler)


def test_missing_regions_and_other_schedulers_are_refused():
    pipe = make_pipe("latent_concat")
    sizes = {"height": SIZE, "width": SIZE, "num_frames": FRAMES}
    with pytest.raises(ValueError, match="no region"):
        animate_regions(pipe, make_image(), [], **sizes)
    pipe.scheduler = DDIMScheduler()
    with pytest.raises(ValueError, match="cannot be animated alone"):
        animate_regions(pipe, make_image(), [make_region()], **sizes)
