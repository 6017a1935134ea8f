"""Pipelines over tiny random weights with a call for each: what diffusers' suites name dummy components and inputs."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from dianjing import ImageToImagePipeline, InpaintPipeline, TextToImagePipeline
from tests.parity.tencent_ip_adapter import EMBED_DIM, make_picture, make_tensors
from tests.parity.test_controlnet import make_controlnet

CALL = {
    "prompt": "草地上的一只小猫",
    "num_inference_steps": 2,
    "guidance_scale": 5.0,
    "height": 64,
    "width": 64,
    "output_type": "np",
}
IMAGE = make_picture((64, 64), seed=1)
OTHER_IMAGE = make_picture((64, 64), seed=2)
MASK = Image.new("L", (64, 64))
MASK.paste(255, (8, 8, 40, 48))
CLASSES: dict[str, Any] = {  # with their images, by argument
    "text to image": (TextToImagePipeline, {}),
    "image to image": (ImageToImagePipeline, {"image": IMAGE, "strength": 0.75}),
    "inpaint": (InpaintPipeline, {"image": IMAGE, "mask_image": MASK}),
}
CONDITIONS: dict[str, Any] = {
    "ControlNet": {"control_image": IMAGE, "controlnet_conditioning_scale": 0.5},
    "IP-Adapter": {"ip_adapter_image": OTHER_IMAGE},
}


@dataclass
class Case:
    """A pipeline of one class with a call for it."""

    pipe: Any
    call: dict[str, Any]
    condition: str | None = None

    def generate(self, pipe=None, **changes):
        """Generate with the seed 0; arguments replace those of the call."""
        settings = {**self.call, "generator": seeded(0), **changes}
        return (pipe or self.pipe)(**settings)

    def images(self, pipe=None, **changes):
        return self.generate(pipe, **changes).images

    def make(self, **parts):
        """A pipeline over the components, some replaced."""
        return self.complete(type(self.pipe)(**{**self.pipe.components, **parts}))

    def load(self, folder, **options):
        """A pipeline from a folder."""
        return self.complete(type(self.pipe).from_pretrained(folder, **options))

    def complete(self, pipe):
        """Load the IP-Adapter of the condition, which is no component, as in diffusers."""
        if self.condition == "IP-Adapter":
            pipe.load_ip_adapter(make_tensors())
        return quiet(pipe)

    def copy_pipe(self):
        """A pipeline with a transformer of its own."""
        return self.make(transformer=copy.deepcopy(self.pipe.transformer))


def make_case(folder, class_name, condition=None):
    """Load the pipeline of a folder as a class, with a condition."""
    pipeline_class, images = CLASSES[class_name]
    pipe = quiet(pipeline_class.from_pretrained(folder))
    if condition == "ControlNet":
        pipe = quiet(pipeline_class.from_pipe(pipe, controlnet=make_controlnet(pipe.transformer)))
    if condition == "IP-Adapter":
        pipe.register_modules(image_encoder=make_tower())
    case = Case(pipe, {**CALL, **images, **CONDITIONS.get(condition, {})}, condition)
    case.complete(pipe)
    return case


def make_tower():
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPVisionConfig(**vision, image_size=12, patch_size=4, projection_dim=EMBED_DIM)
    return CLIPVisionModelWithProjection(config).eval()


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]
