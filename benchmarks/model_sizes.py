"""Sizes of models to compare, and models of both implementations with the weights of one state dict."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import HunyuanDiT2DModel
from torch import Tensor, nn

from dianjing.dit import DiT
from dianjing.weights import registry

SEED = 0
HUNYUAN_CONFIG = {"in_channels": 4, "patch_size": 2, "text_len": 77, "text_len_t5": 256}


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """A size of model with the size of its image: latents of latent_size x latent_size.

    config: keys of HunyuanDiT2DModel. state_dict: None for random weights. num_inference_steps: of a run, whose final
    latents are compared. min_pairs: more for models with short steps.
    """

    name: str
    weights: str  # "trained" or "random"
    config: Mapping[str, Any]
    latent_size: int
    num_inference_steps: int
    min_pairs: int
    state_dict: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        # otherwise no run would end
        assert self.min_pairs >= self.num_inference_steps, (self.min_pairs, self.num_inference_steps)

    @property
    def num_image_tokens(self) -> int:
        return (self.latent_size // self.config["patch_size"]) ** 2

    @property
    def num_text_tokens(self) -> int:
        return self.config["text_len"] + self.config["text_len_t5"]


def make_medium_size() -> ModelSize:
    """Return a model of 12 layers and width 768 with text encoders of base size, for images of 256 px."""
    config = {
        **HUNYUAN_CONFIG,
        "num_layers": 12,
        "num_attention_heads": 12,
        "attention_head_dim": 64,
        "hidden_size": 768,
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
    """Return Hunyuan-DiT v1.2 with 6 of its 40 layers, for images of 512 px."""
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
    """Return the folder of the bundled model, None if it is missing."""
    model_info = registry.get_model_info("sticker")
    folder = None if model_info is None else model_info.bundled_folder
    return folder if folder is not None and (folder / "model_index.json").is_file() else None


def make_sticker_size() -> ModelSize:
    """Return the size of the bundled model with its weights; without the bundle, that of its recipe, random weights."""
    folder = find_sticker_bundle()
    if folder is None:
        transformer, weights = make_recipe_transformer(), "random"
    else:
        transformer, weights = DiT.from_pretrained(folder / "transformer", dtype=torch.float32), "trained"
    state_dict = transformer.state_dict()
    config = {name: transformer.config[name] for name in _get_shared_config_keys()}
    if not config["learn_sigma"]:
        config, state_dict = add_learned_variance(config, state_dict)
    return ModelSize(
        name="sticker",
        weights=weights,
        config=config,
        latent_size=config["sample_size"],
        num_inference_steps=20,
        min_pairs=100,
        state_dict=None if folder is None else state_dict,
    )


def make_recipe_transformer() -> DiT:
    """Return the untrained transformer of the bundled model's recipe."""
    # run files are read with pydantic, which the other sizes do not need
    from dianjing.train import recipes as recipes_package
    from dianjing.train.config.autoencoder import AutoencoderModelConfig
    from dianjing.train.config.run_file import read_run_config
    from dianjing.train.config.text_to_image import TextToImageModelConfig
    from dianjing.train.tasks.text_to_image import make_transformer

    recipes = Path(recipes_package.__path__[0])
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
    """Add a learned variance of zero to a model, since diffusers' pipeline needs one."""

    def double_channels(rows: Tensor) -> Tensor:
        patches = rows.unflatten(0, (config["patch_size"] ** 2, config["in_channels"]))
        return torch.cat([patches, torch.zeros_like(patches)], dim=1).flatten(0, 1)

    widened = {name: double_channels(state_dict[name]) for name in ("proj_out.weight", "proj_out.bias")}
    return {**config, "learn_sigma": True}, {**state_dict, **widened}


def make_diffusers_model(size: ModelSize) -> HunyuanDiT2DModel:
    """Return diffusers' model of a size in float32, with the weights of the size or random ones."""
    torch.manual_seed(SEED)
    model = HunyuanDiT2DModel(**size.config).eval().requires_grad_(False)
    if size.state_dict is None:
        randomize_norms(model)
    else:
        model.load_state_dict({name: size.state_dict[name] for name in model.state_dict()})
    return model


def make_dianjing_model(diffusers_model: HunyuanDiT2DModel) -> DiT:
    """Return Dianjing's model with the weights of diffusers' model, in float32."""
    config = {name: diffusers_model.config[name] for name in _get_shared_config_keys()}
    model = DiT(**config).eval().requires_grad_(False)
    model.load_state_dict(diffusers_model.state_dict())
    return model


@torch.no_grad()
def randomize_norms(model: nn.Module) -> None:
    """Move norm parameters away from ones and zeros, so that a missing norm changes the output."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and module.weight is not None:
            module.weight.add_(0.2 * torch.randn_like(module.weight))
            module.bias.add_(0.2 * torch.randn_like(module.bias))


def _get_shared_config_keys() -> list[str]:
    """Return the configuration keys that both models have."""
    diffusers_keys, dianjing_keys = (inspect.signature(model.__init__).parameters for model in (HunyuanDiT2DModel, DiT))
    return [name for name in diffusers_keys if name in dianjing_keys and name != "self"]
