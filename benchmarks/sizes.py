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
from dianjing.weights import registry

SEED = 0
HUNYUAN = {"in_channels": 4, "patch_size": 2, "text_len": 77, "text_len_t5": 256}


@dataclass(frozen=True, kw_only=True)
class Size:
    """A size of model with the size of its picture: `latents_side` squared.

    `config` holds keys of HunyuanDiT2DModel. Without `state` the weights are drawn by lot. A walk
    of `steps` steps ends in the latents that are compared; there are at least `min_pairs` pairs,
    more where a step is short.
    """

    name: str
    weights: str  # what they are, for the reader of a table
    config: Mapping[str, Any]
    latents_side: int
    steps: int
    min_pairs: int
    state: Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        if self.min_pairs < self.steps:
            raise ValueError(f"min_pairs {self.min_pairs} is less than steps {self.steps}: no walk would end")

    @property
    def num_image_tokens(self) -> int:
        return (self.latents_side // self.config["patch_size"]) ** 2

    @property
    def num_text_tokens(self) -> int:
        return self.config["text_len"] + self.config["text_len_t5"]


def middle() -> Size:
    config = {
        **HUNYUAN, "num_layers": 12, "num_attention_heads": 12, "attention_head_dim": 64, "hidden_size": 768,
        # as wide as the states of text encoders of base size
        "cross_attention_dim": 768, "cross_attention_dim_t5": 768, "pooled_projection_dim": 768,
        "activation_fn": "gelu-approximate", "sample_size": 32, "use_style_cond_and_image_meta_size": False,
    }  # fmt: skip
    return Size(name="middle", weights="random", config=config, latents_side=32, steps=10, min_pairs=20)


def wide() -> Size:
    """Hunyuan-DiT v1.2 with 6 of its 40 layers."""
    config = {
        **HUNYUAN, "num_layers": 6, "num_attention_heads": 16, "attention_head_dim": 88, "hidden_size": 1408,
        "mlp_ratio": 4.3637, "cross_attention_dim": 1024, "cross_attention_dim_t5": 2048,
        "pooled_projection_dim": 1024, "activation_fn": "gelu-approximate", "sample_size": 128,
        "use_style_cond_and_image_meta_size": False,
    }  # fmt: skip
    return Size(name="wide", weights="random", config=config, latents_side=64, steps=5, min_pairs=5)


def sticker_folder() -> Path | None:
    """Where the embedded bundle lies, if it does."""
    entry = registry.find("sticker")
    folder = None if entry is None else entry.folder
    return folder if folder is not None and (folder / "model_index.json").is_file() else None


def sticker() -> Size:
    """The embedded model; as its recipe makes it, with random weights, where the bundle is not there."""
    folder = sticker_folder()
    if folder is None:
        transformer, weights = recipe_transformer(), "random"
    else:
        transformer, weights = DiT.from_pretrained(folder / "transformer", dtype=torch.float32), "trained"
    state = transformer.state_dict()
    config = {name: transformer.config[name] for name in _known_keys()}
    if not config["learn_sigma"]:
        config, state = with_variance(config, state)
    return Size(
        name="sticker", weights=weights, config=config, latents_side=config["sample_size"], steps=20, min_pairs=100,
        state=None if folder is None else state,
    )  # fmt: skip


def recipe_transformer() -> DiT:
    """What the recipes of the embedded model make, untrained."""
    # recipes are read with pydantic, without which every other size can be measured
    from dianjing.train.config import read_config
    from dianjing.train.sections import AutoencoderModel, TextToImageModel
    from dianjing.train.text_to_image import make_transformer

    recipes = Path(inspect.getfile(read_config)).parent / "recipes"
    vae, run = (read_config(recipes / f"sticker_{part}.toml") for part in ("vae", "dit"))
    assert isinstance(vae.model, AutoencoderModel)
    assert isinstance(run.model, TextToImageModel)
    sample_size = run.data.size_px // 2 ** (len(vae.model.block_out_channels) - 1)
    return make_transformer(run.model, channels=vae.model.latent_channels, sample_size=sample_size)


SIZES: dict[str, Callable[[], Size]] = {"sticker": sticker, "middle": middle, "wide": wide}


def with_variance(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The same model with a learned variance of zero, without which diffusers' pipeline cannot run it."""

    def doubled(rows: Tensor) -> Tensor:
        patches = rows.unflatten(0, (config["patch_size"] ** 2, config["in_channels"]))
        return torch.cat([patches, torch.zeros_like(patches)], dim=1).flatten(0, 1)

    widened = {name: doubled(state[name]) for name in ("proj_out.weight", "proj_out.bias")}
    return {**config, "learn_sigma": True}, {**state, **widened}


def make_theirs(size: Size) -> HunyuanDiT2DModel:
    """diffusers' model of this size in float32, with the size's weights or random ones."""
    torch.manual_seed(SEED)
    model = HunyuanDiT2DModel(**size.config).eval().requires_grad_(False)
    if size.state is None:
        disturb_norms(model)
    else:
        model.load_state_dict({name: size.state[name] for name in model.state_dict()})
    return model


def make_ours(theirs: HunyuanDiT2DModel) -> DiT:
    """Our model with the weights of theirs, in float32."""
    given = {name: theirs.config[name] for name in _known_keys()}
    model = DiT(**given).eval().requires_grad_(False)
    model.load_state_dict(theirs.state_dict())
    return model


@torch.no_grad()
def disturb_norms(model: nn.Module) -> None:
    """Away from ones and zeros, with which a forgotten norm would go unseen."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm) and module.weight is not None:
            module.weight.add_(0.2 * torch.randn_like(module.weight))
            module.bias.add_(0.2 * torch.randn_like(module.bias))


def _known_keys() -> list[str]:
    """Configuration keys that both models have."""
    theirs, ours = (inspect.signature(model.__init__).parameters for model in (HunyuanDiT2DModel, DiT))
    return [name for name in theirs if name in ours and name != "self"]
