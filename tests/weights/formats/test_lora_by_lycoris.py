"""Adapters written by lycoris-lora: each gives the images that its own layers give, or is refused by name."""

from copy import deepcopy

import pytest
import torch
from lycoris import LycorisNetwork

from dianjing import TextToImagePipeline
from dianjing.errors import DianjingError

MODULES = ["blocks.0.attn1.to_q", "blocks.1.attn2.to_v", "blocks.0.ff.net.0.proj", "blocks.2.skip_linear"]
PREFIXES = ("lora_unet", "lycoris")  # of kohya's trainers, and of the library by itself
FORMATS = {
    "LoRA": {"network_module": "lora"},
    "LoRA, DoRA": {"network_module": "lora", "weight_decompose": True},
    "LoHa": {"network_module": "loha"},
    "LoHa, DoRA": {"network_module": "loha", "weight_decompose": True},
    "LoKr": {"network_module": "lokr"},
    "LoKr, one factor of low rank": {"network_module": "lokr", "factor": 2, "lora_dim": 1},
    "LoKr, both factors of low rank": {"network_module": "lokr", "factor": 4, "decompose_both": True, "lora_dim": 1},
    "LoKr, whole": {"network_module": "lokr", "full_matrix": True},
    "LoKr, DoRA": {"network_module": "lokr", "weight_decompose": True},
}


@pytest.fixture(scope="module")
def plain(tiny_folder):
    return TextToImagePipeline.from_pretrained(tiny_folder)


def write_adapter(transformer, path, *, prefix="lora_unet", modules=MODULES, **settings):
    """Add an adapter with random weights to the transformer and write it, both by lycoris-lora.

    Its `merge_to` is not used: it applies the scale alpha / rank of LoHa and LoKr twice (release 4.1.3).
    """
    LycorisNetwork.apply_preset(
        {"target_module": [], "target_name": modules, "use_fnmatch": True, "lora_prefix": prefix}
    )
    sizes = {"lora_dim": 3, "conv_lora_dim": 3, "alpha": 2.0, "conv_alpha": 2.0}
    network = LycorisNetwork(transformer, 1.0, **{**sizes, **settings})
    network.apply_to()
    torch.manual_seed(0)
    for name, parameter in network.named_parameters():
        if "dora_scale" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    network.save_weights(str(path), torch.float32, None)
    return network.eval()


def sample(pipe, transformer=None):
    pipe = pipe if transformer is None else TextToImagePipeline(**{**pipe.components, "transformer": transformer})
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    return pipe("cat", num_inference_steps=1, latents=noise, output_type="latent").images


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", FORMATS)
def test_an_adapter_gives_the_images_that_the_layers_of_lycoris_give(plain, tmp_path, name, prefix):
    reference, adapted = deepcopy(plain.transformer), deepcopy(plain.transformer)
    network = write_adapter(reference, tmp_path / "adapter.safetensors", prefix=prefix, **FORMATS[name])
    assert len(network.loras) == len(MODULES)
    pipe = TextToImagePipeline(**{**plain.components, "transformer": adapted})
    pipe.load_lora_weights(tmp_path / "adapter.safetensors")
    expected = sample(plain, reference)
    assert (expected - sample(plain)).abs().max() > 1e-3
    torch.testing.assert_close(sample(pipe), expected, rtol=1e-5, atol=1e-5)
    pipe.fuse_lora()
    torch.testing.assert_close(sample(pipe), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"network_module": "full"}, "LyCORIS full"),
        ({"network_module": "glora"}, "GLoRA"),
        ({"network_module": "diag-oft"}, "OFT"),
        ({"network_module": "boft"}, "OFT"),
        ({"network_module": "ia3"}, "IA3"),
        ({"network_module": "lora", "train_norm": True, "modules": [*MODULES, "blocks.0.norm2"]}, "norm layers"),
        ({"network_module": "loha", "weight_decompose": True, "wd_on_out": False}, "DoRA"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_lycoris_writes_and_no_lora_can_be_is_refused_by_name(plain, tmp_path, settings, text):
    write_adapter(deepcopy(plain.transformer), tmp_path / "adapter.safetensors", **settings)
    pipe = TextToImagePipeline(**{**plain.components, "transformer": deepcopy(plain.transformer)})
    with pytest.raises(DianjingError, match=text):
        pipe.load_lora_weights(tmp_path / "adapter.safetensors")
    assert not pipe.get_list_adapters()
