"""Pipelines over tiny random models in folders that diffusers saved."""

import json
import logging
import shutil

import pytest


@pytest.fixture(scope="session")
def hunyuan_folder(make_hunyuan, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "hunyuan"
    make_hunyuan().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded(hunyuan_folder):
    from dianjing import TextToImagePipeline

    pipe = TextToImagePipeline.from_pretrained(hunyuan_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(loaded):
    """A pipeline for one test over weights that all tests share: put no hook on them."""
    pipe = type(loaded)(**loaded.components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def own_pipe(hunyuan_folder):
    """A pipeline with weights for one test alone."""
    from dianjing import TextToImagePipeline

    pipe = TextToImagePipeline.from_pretrained(hunyuan_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def generate_latents():
    import torch

    def generate_latents(pipe, prompt="a cat", **settings):
        """Generate latents (B, 4, 8, 8) in a short run, or another `output_type`."""
        settings = {"num_inference_steps": 3, "output_type": "latent", **settings}
        if "latents" not in settings:
            settings.setdefault("generator", torch.Generator().manual_seed(0))
        return pipe(prompt, **settings).images

    return generate_latents


@pytest.fixture
def warnings():
    """Warnings of the package's loggers, which do not reach pytest by themselves."""
    messages = []

    class Listener(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    logger, listener = logging.getLogger("dianjing"), Listener(logging.WARNING)
    logger.addHandler(listener)
    yield messages
    logger.removeHandler(listener)


@pytest.fixture(scope="session")
def video_folder(make_hunyuan, tmp_path_factory):
    """The tiny model with motion blocks at zero, like an image model that was just made a video model."""
    from dianjing import DiT
    from dianjing.pipelines.text_to_video import TextToVideoPipeline

    source = tmp_path_factory.mktemp("models") / "images"
    image_pipe = make_hunyuan(with_size=False)
    image_pipe.save_pretrained(source)
    transformer = DiT.from_pretrained(source / "transformer", use_motion_blocks=True, max_regions=2)
    parts = {name: part for name, part in image_pipe.components.items() if name in VIDEO_COMPONENTS}
    pipe = TextToVideoPipeline(**{**parts, "transformer": transformer}, default_num_frames=4)
    pipe.save_pretrained(source.parent / "video")
    return source.parent / "video"


VIDEO_COMPONENTS = {"vae", "text_encoder", "tokenizer", "scheduler", "text_encoder_2", "tokenizer_2"}


@pytest.fixture
def adapter(own_pipe):
    """Tensors (rank 2) of an adapter under the transformer's names, and what they add to the weights at scale 1."""
    import torch

    generator = torch.Generator().manual_seed(0)
    tensors, deltas = {}, {}
    for name, module in own_pipe.transformer.named_modules():
        if name.endswith(("attn1.to_q", "attn1.to_v")):
            down = torch.randn(2, module.in_features, generator=generator)
            up = torch.randn(module.out_features, 2, generator=generator)
            tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
            deltas[name] = up @ down
    return tensors, deltas


@pytest.fixture(scope="session")
def few_steps_folder(hunyuan_folder, tmp_path_factory):
    """A model with a default adapter."""
    from tests.pipelines.few_steps_models import write_few_steps

    copy = tmp_path_factory.mktemp("models") / "fast"
    shutil.copytree(hunyuan_folder, copy)
    write_few_steps(copy / "few_steps", hunyuan_folder, alpha_pattern={"attn1.to_q": 1})
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "_default_adapter": "few_steps"}))
    return copy


@pytest.fixture(scope="session")
def user_adapter(hunyuan_folder, tmp_path_factory):
    from tests.pipelines.few_steps_models import write_adapter

    return write_adapter(tmp_path_factory.mktemp("adapter"), hunyuan_folder, seed=2, targets=("to_v", "to_q"))


@pytest.fixture
def fast(few_steps_folder):
    """A pipeline with a default adapter, for one test alone; by itself the model takes 3 steps."""
    from tests.pipelines.few_steps_models import load

    pipe = load(few_steps_folder)
    pipe.register_to_config(default_num_inference_steps=3)
    return pipe
