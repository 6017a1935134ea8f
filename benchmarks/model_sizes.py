"""The three sizes of model, and their weights: one state dict for both sides.

C latent channels, D width.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import HunyuanDiT2DModel
from torch import Tensor, nn

from dianjing.dit import DiT
from dianjing.train.config.autoencoder import AutoencoderModelConfig
from dianjing.train.config.run_file import read_run_config
from dianjing.train.config.text_to_image import TextToImageModelConfig
from dianjing.train.tasks.text_to_image import make_transformer
from dianjing.weights import registry

SEED = 0
HUNYUAN_CONFIG = {"in_channels": 4, "patch_size": 2, "text_len": 77, "text_len_t5": 256}


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """A size of model with the size of its picture: `latents_side` squared.

    `config` holds keys of HunyuanDiT2DModel. Without `state` the weights are drawn by lot. A walk
    of `steps` steps ends in the latents that are compared; there are at least `min_pairs` pairs,
    more where a step is short.
    """

    name: str
    weights: str  # what they are, for the reader of a table
    config: Mapping[str, Any]
    latent_size: int
    num_inference_steps: int
    min_pairs: int
    state_dict: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        if self.min_pairs < self.num_inference_steps:
            raise ValueError(
                f"min_pairs {self.min_pairs} is less than steps {self.num_inference_steps}: no walk would end"
            )

    @property
    def num_image_tokens(self) -> int:
        return (self.latent_size // self.config["patch_size"]) ** 2

    @property
    def num_text_tokens(self) -> int:
        return self.config["text_len"] + self.config["text_len_t5"]


def make_medium_size() -> ModelSize:
    config = {
        **HUNYUAN_CONFIG,
        "num_layers": 12,
        "num_attention_heads": 12,
        "attention_head_dim": 64,
        "hidden_size": 768,
        # as wide as the states of text encoders of base size
        "cross_attention_dim": 768,
        "cross_attention_dim_t5": 768,
        "pooled_projection_dim": 768,
        "activation_fn": "gelu-approximate",
        "sample_size": 32,
        "use_style_cond_and_image_meta_size": False,
    }
    return ModelSize(
        name="medium", weights="random", config=config, latent_size=32, num_inference_steps=10, min_pairs=20
    )


def make_wide_size() -> ModelSize:
    """Hunyuan-DiT v1.2 with 6 of its 40 layers."""
    config = {
        **HUNYUAN_CONFIG,
        "num_layers": 6,
        "num_attention_heads": 16,
        "attention_head_dim": 88,
        "hidden_size": 1408,
        "mlp_ratio": 4.3637,
        "cross_attention_dim": 1024,
        "cross_attention_dim_t5": 2048,
        "pooled_projection_dim": 1024,
        "activation_fn": "gelu-approximate",
        "sample_size": 128,
        "use_style_cond_and_image_meta_size": False,
    }
    return ModelSize(name="wide", weights="random", config=config, latent_size=64, num_inference_steps=5, min_pairs=5)


def find_sticker_bundle() -> Path | None:
    """Where the embedded bundle lies, if it does."""
    entry = registry.get_model_info("sticker")
    folder = None if entry is None else entry.bundled_folder
    return folder if folder is not None and (folder / "model_index.json").is_file() else None


def make_sticker_size() -> ModelSize:
    """The embedded model; as its recipe makes it, with random weights, where the bundle is not there."""
    folder = find_sticker_bundle()
    if folder is None:
        transformer, weights = make_recipe_transformer(), "random"
    else:
        transformer, weights = DiT.from_pretrained(folder / "transformer", dtype=torch.float32), "trained"
    state = transformer.state_dict()
    config = {name: transformer.config[name] for name in _get_shared_config_keys()}
    if not config["learn_sigma"]:
        config, state = add_learned_variance(config, state)
    return ModelSize(
        name="sticker",
        weights=weights,
        config=config,
        latent_size=config["sample_size"],
        num_inference_steps=20,
        min_pairs=100,
        state_dict=None if folder is None else state,
    )


def make_recipe_transformer() -> DiT:
    """What the recipes of the embedded model make, untrained."""
    recipes = Path(inspect.getfile(read_run_config)).parent / "recipes"
    vae, run = (read_run_config(recipes / f"sticker_{part}.toml") for part in ("vae", "dit"))
    assert isinstance(vae.model, AutoencoderModelConfig)
    assert isinstance(run.model, TextToImageModelConfig)
    sample_size = run.data.size_px // 2 ** (len(vae.model.block_out_channels) - 1)
    return make_transformer(run.model, channels=vae.model.latent_channels, sample_size=sample_size)


MODEL_SIZES: dict[str, Callable[[], ModelSize]] = {
    "sticker": make_sticker_size,
    "medium": make_medium_size,
    "wide": make_wide_size,
}


def add_learned_variance(
    config: Mapping[str, Any], state_dict: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The same model with a learned variance of zero, without which diffusers' pipeline cannot run it."""

    def doubled(rows: Tensor) -> Tensor:
        patches = rows.unflatten(0, (config["patch_size"] ** 2, config["in_channels"]))
        return torch.cat([patches, torch.zeros_like(patches)], dim=1).flatten(0, 1)

    widened = {name: doubled(state_dict[name]) for name in ("proj_out.weight", "proj_out.bias")}
    return {**config, "learn_sigma": True}, {**state_dict, **widened}


def make_diffusers_model(size: ModelSize) -> HunyuanDiT2DModel:
    """diffusers' model of this size in float32, with the size's weights or random ones."""
    torch.manual_seed(SEED)
    model = HunyuanDiT2DModel(**size.config).eval().requires_grad_(False)
    if size.state_dict is None:
        _randomize_norms(model)
    else:
        model.load_state_dict({name: size.state_dict[name] for name in model.state_dict()})
    return model


def make_dianjing_model(diffusers_model: HunyuanDiT2DModel) -> DiT:
    """Our model with the weights of theirs, in float32."""
    given = {name: diffusers_model.config[name] for name in _get_shared_config_keys()}
    model = DiT(**given).eval().requires_grad_(False)
    model.load_state_dict(diffusers_model.state_dict())
    return model


@torch.no_grad()
def _randomize_norms(model: nn.Module) -> None:
    """Away from ones and zeros, with which a forgotten norm would go unseen."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and module.weight is not None:
            module.weight.add_(0.2 * torch.randn_like(module.weight))
            module.bias.add_(0.2 * torch.randn_like(module.bias))


def _get_shared_config_keys() -> list[str]:
    """Configuration keys that both models have."""
    theirs, ours = (inspect.signature(model.__init__).parameters for model in (HunyuanDiT2DModel, DiT))
    return [name for name in theirs if name in ours and name != "self"]
