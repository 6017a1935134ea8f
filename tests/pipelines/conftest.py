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
def generate_latents():
    import torch

    def generate_latents(pipe, prompt="a cat", **settings):
        """The latents (B, 4, 8, 8) of a short run, or what `output_type` asks for."""
        settings = {"num_inference_steps": 3, "output_type": "latent", **settings}
        if "latents" not in settings:
            settings.setdefault("generator", torch.Generator().manual_seed(0))
        return pipe(prompt, **settings).images

    return generate_latents


@pytest.fixture(scope="session")
def video_folder(make_hunyuan, tmp_path_factory):
    """The tiny model with motion blocks that do nothing yet, as after a picture model became one for film."""
    from dianjing import DiT
    from dianjing.pipelines.text_to_video import TextToVideoPipeline

    source = tmp_path_factory.mktemp("models") / "pictures"
    pictures = make_hunyuan(with_size=False)
    pictures.save_pretrained(source)
    transformer = DiT.from_pretrained(source / "transformer", use_motion_blocks=True, max_regions=2)
    parts = {name: part for name, part in pictures.components.items() if name in VIDEO_COMPONENTS}
    pipe = TextToVideoPipeline(**{**parts, "transformer": transformer}, default_num_frames=4)
    pipe.save_pretrained(source.parent / "film")
    return source.parent / "film"


VIDEO_COMPONENTS = {"vae", "text_encoder", "tokenizer", "scheduler", "text_encoder_2", "tokenizer_2"}
