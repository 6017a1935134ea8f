"""Tiny models with a default adapter, and the same adapter as PEFT applies it."""

import torch
from diffusers import DDIMScheduler
from peft import LoraConfig, get_peft_model_state_dict

from dianjing import DiT, TextToImagePipeline
from dianjing.weights.adapter_sampling import AdapterSampling, write_adapter_sampling

SAMPLING = AdapterSampling(num_inference_steps=2, guidance_scale=1.0)
TARGETS = ("to_q", "to_out.0", "net.2")


def write_adapter(folder, model_folder, *, seed, targets=TARGETS, **options):
    transformer = DiT.from_pretrained(model_folder / "transformer")
    torch.manual_seed(seed)
    config = {"r": 2, "lora_alpha": 3, "target_modules": list(targets), "init_lora_weights": False, **options}
    transformer.add_adapter(LoraConfig(**config))
    weights = get_peft_model_state_dict(transformer)
    metadata = transformer.peft_config["default"].to_dict()
    TextToImagePipeline.save_lora_weights(folder, weights, transformer_lora_adapter_metadata=metadata)
    return folder


def write_few_steps(folder, model_folder, **options):
    write_adapter(folder, model_folder, seed=1, **options)
    scheduler = DDIMScheduler.from_pretrained(model_folder / "scheduler", timestep_spacing="trailing")
    scheduler.save_pretrained(folder / "scheduler")
    write_adapter_sampling(folder, SAMPLING)
    return folder


def load(folder):
    pipe = TextToImagePipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, **settings):
    settings = {"generator": torch.Generator().manual_seed(0), "output_type": "latent", **settings}
    return pipe("a cat", **settings).images


def draw_reference(hunyuan_folder, folder, *others, loaded=None):
    """The latents of a model without a default adapter, with the same adapter as PEFT applies it, beside others."""
    pipe = loaded or load(hunyuan_folder)
    pipe.load_lora_weights(folder / "few_steps", adapter_name="few")
    for number, other in enumerate(others):
        pipe.load_lora_weights(other, adapter_name=f"other_{number}")
    pipe.set_adapters(["few", *(f"other_{number}" for number in range(len(others)))])
    pipe.scheduler = DDIMScheduler.from_pretrained(folder / "few_steps" / "scheduler")
    return draw(pipe, num_inference_steps=SAMPLING.num_inference_steps, guidance_scale=SAMPLING.guidance_scale)


def assert_close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
