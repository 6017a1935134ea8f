"""A pipeline of ours from a folder that diffusers saved."""

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
    """A pipeline of its own for each test, over shared weights: put no hook on them."""
    pipe = type(loaded)(**loaded.components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def own_pipe(hunyuan_folder):
    """A pipeline whose weights no other test sees."""
    from dianjing import TextToImagePipeline

    pipe = TextToImagePipeline.from_pretrained(hunyuan_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def draw():
    import torch

    def draw(pipe, prompt="a cat", **settings):
        """The latents (B, 4, 8, 8) of a short run, or what `output_type` asks for."""
        settings = {"num_inference_steps": 3, "output_type": "latent", **settings}
        if "latents" not in settings:
            settings.setdefault("generator", torch.Generator().manual_seed(0))
        return pipe(prompt, **settings).images

    return draw
