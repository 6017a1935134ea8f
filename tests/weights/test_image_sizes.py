"""Image sizes as the configurations of a folder tell them: those of the pipeline that loads it."""

import pytest

from dianjing import TextToImagePipeline
from dianjing.weights.image_sizes import find_size_multiple_px, read_default_size_px, read_size_multiple_px
from dianjing.weights.resolve import resolve_model


@pytest.mark.parametrize("name", ["sticker", "tiny"])
def test_sizes_are_those_of_the_pipeline(name, tiny_folder):
    folder = tiny_folder if name == "tiny" else resolve_model(name)
    pipe = TextToImagePipeline.from_pretrained(folder)
    assert read_default_size_px(folder) == pipe.default_size_px
    assert read_size_multiple_px(folder) == find_size_multiple_px(folder, default=1) == pipe.size_multiple_px
    latents = pipe("cat", num_inference_steps=1, output_type="latent").images
    assert pipe.vae.decode(latents).sample.shape[-2:] == (pipe.default_size_px, pipe.default_size_px)


def test_a_folder_of_another_kind_has_the_default_multiple(tmp_path):
    assert find_size_multiple_px(None, default=16) == find_size_multiple_px(tmp_path, default=16) == 16
    for part, config in (("vae", '{"z_dim": 16}'), ("transformer", '{"patch_size": [1, 2, 2]}')):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(config)
    assert find_size_multiple_px(tmp_path, default=16) == 16
