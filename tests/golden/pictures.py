"""Golden cases of pictures: the embedded model with words, guidance, batches, bfloat16, a ControlNet and a LoRA."""

from functools import cache
from pathlib import Path

import torch
from diffusers import HunyuanDiT2DControlNetModel
from PIL import Image
from torch import Tensor

from dianjing import TextToImagePipeline
from tests.golden.results import Results, array, pixels

STEPS = 4
CONTROL_IMAGE = Path(__file__).parent / "inputs" / "lines.png"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def loaded() -> TextToImagePipeline:
    """The embedded model in float32; put nothing on it."""
    pipe: TextToImagePipeline = TextToImagePipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(
    pipe: TextToImagePipeline,
    prompt: str | list[str],
    *,
    guidance_scale: float,
    output_type: str = "latent",
    negative_prompt: str | None = None,
    control_image: Image.Image | None = None,
    seeds: tuple[int, ...] = (0,),
):
    """The pictures of a short run, one seed for each."""
    return pipe(
        prompt,
        num_inference_steps=STEPS,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        num_images_per_prompt=len(seeds) // (1 if isinstance(prompt, str) else len(prompt)),
        generator=[seeded(seed) for seed in seeds],
        output_type=output_type,
        control_image=control_image,
        return_dict=False,
    )[0]


def words(folder: Path) -> Results:
    """Chinese and English, with and without guidance, a negative prompt, a batch, and every kind of output."""
    pipe, results = loaded(), {}
    for language, prompt in {"zh": "草地上的一只小猫", "en": "two red hearts and a dog on the beach"}.items():
        for scale in (1.0, 4.0):
            results[f"{language} {scale} latents"] = array(generate(pipe, prompt, guidance_scale=scale))
            shown = generate(pipe, prompt, guidance_scale=scale, output_type="pil")
            results[f"{language} {scale} pixels"] = pixels(shown)
    results["negative"] = array(generate(pipe, "一只小狗", guidance_scale=4.0, negative_prompt="red"))
    batch = ["a cat", "夜空下的一座房子"]
    results["batch latents"] = array(generate(pipe, batch, guidance_scale=4.0, seeds=(1, 2, 3, 4)))
    results["batch tensor"] = array(generate(pipe, "a cat", guidance_scale=4.0, output_type="pt"))
    wide = pipe(
        "a cat",
        height=32,
        width=96,
        num_inference_steps=STEPS,
        guidance_rescale=0.5,
        eta=1.0,
        generator=seeded(5),
        output_type="latent",
        return_dict=False,
    )[0]
    results["wide latents"] = array(wide)
    return results


def bfloat16(folder: Path) -> Results:
    pipe: TextToImagePipeline = TextToImagePipeline.from_pretrained("sticker", dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    return {
        "latents": array(generate(pipe, "草地上的一只小猫", guidance_scale=4.0)),
        "pixels": pixels(generate(pipe, "a cat", guidance_scale=1.0, output_type="pil")),
    }


def controlnet(folder: Path) -> Results:
    """A ControlNet of random weights, and line art."""
    transformer = loaded().transformer
    torch.manual_seed(1)
    net = HunyuanDiT2DControlNetModel(
        num_attention_heads=4,
        attention_head_dim=64,
        in_channels=16,
        patch_size=2,
        sample_size=8,
        hidden_size=256,
        mlp_ratio=4.0,
        cross_attention_dim=128,
        cross_attention_dim_t5=128,
        pooled_projection_dim=256,
        text_len=32,
        text_len_t5=32,
        use_style_cond_and_image_meta_size=False,
        transformer_num_layers=len(transformer.blocks),
    )
    for layer in (net.input_block, *net.controlnet_blocks):  # else it does nothing
        torch.nn.init.normal_(layer.weight, std=0.05)
    pipe: TextToImagePipeline = TextToImagePipeline.from_pretrained("sticker", controlnet=net.eval())
    pipe.set_progress_bar_config(disable=True)
    drawn = generate(pipe, "a cat", guidance_scale=4.0, control_image=Image.open(CONTROL_IMAGE))
    return {"latents": array(drawn)}


def lora(folder: Path) -> Results:
    """A LoRA of random weights, loaded, weakened and fused."""
    pipe: TextToImagePipeline = TextToImagePipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(_random_lora(), adapter_name="golden")
    results = {"latents": array(generate(pipe, "a cat", guidance_scale=4.0))}
    pipe.set_adapters("golden", 0.5)
    results["half"] = array(generate(pipe, "a cat", guidance_scale=4.0))
    pipe.fuse_lora()
    results["fused"] = array(generate(pipe, "a cat", guidance_scale=4.0))
    return results


def _random_lora() -> dict[str, Tensor]:
    """Rank 2, on queries and values of the image's own attention."""
    generator, tensors = seeded(2), {}
    for block in range(6):
        for layer in ("to_q", "to_v"):
            name = f"transformer.blocks.{block}.attn1.{layer}"
            tensors[f"{name}.lora_A.weight"] = 0.1 * torch.randn(2, 256, generator=generator)
            tensors[f"{name}.lora_B.weight"] = 0.1 * torch.randn(256, 2, generator=generator)
    return tensors
