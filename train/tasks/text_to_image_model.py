"""The transformer of a text-to-image run: construction, initialization, and which of its weights are trained."""

from functools import partial
from pathlib import Path

import torch
from torch import nn

from dianjing.dit import DiT
from dianjing.train.config.text_to_image import TextToImageModelConfig
from dianjing.train.export import load_weights
from dianjing.train.tasks.latent_channels import add_latent_channels

MOTION_PREFIXES = ("motion_blocks.", "motion_conditioner.")  # weights of the transformer that only videos use
FLOW_FIELD_PREFIX = "motion_conditioner.flow_field."
MODEL_INDEX = {  # of an export, for diffusers
    "_class_name": "HunyuanDiTPipeline",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "BertModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "BertTokenizer"],
    "tokenizer_2": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["dianjing.dit", "DiT"],  # diffusers has none with these lengths of texts
    "vae": ["diffusers", "AutoencoderKL"],
}


def is_trainable(name: str, trainable: str) -> bool:
    """True for the name of a weight of the task that is trained with `model.trainable` other than "all"."""
    if trainable == "image":
        return name.startswith("transformer.") and not name.removeprefix("transformer.").startswith(MOTION_PREFIXES)
    name = name.removeprefix("transformer.")
    return name.startswith(FLOW_FIELD_PREFIX) == (trainable == "flow_field") and name.startswith(MOTION_PREFIXES)


def make_transformer(model: TextToImageModelConfig, *, channels: int, sample_size: int) -> DiT:
    """A new transformer for latents of `channels` and a side of `sample_size`."""
    return DiT(
        **model.transformer.model_dump(),
        in_channels=channels,
        sample_size=sample_size,
        learn_sigma=False,
        cross_attention_dim=model.bert.hidden_size,
        cross_attention_dim_t5=model.t5.d_model,
        text_len=model.text_len,
        text_len_t5=model.text_len_t5,
        use_style_cond_and_image_meta_size=False,
    )


@torch.no_grad()
def init_transformer(transformer: DiT) -> None:
    """Initialize with Xavier, modulation and output with zeros (DiT: Peebles & Xie 2023, Sec. 3.2).

    Motion blocks and motion conditioning start as the identity.
    """
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if name.endswith(("norm1.linear", "norm_out.linear", "proj_out")) or name == "proj_out":
            nn.init.zeros_(module.weight)
    nn.init.normal_(transformer.text_embedding_padding, std=0.02)
    for part in (*(transformer.motion_blocks or ()), *filter(None, (transformer.motion_conditioner,))):
        part.zero_init()


def load_transformer(transformer: DiT, folder: Path) -> None:
    """Load the exported weights of a transformer for the same latents, or for latents with the first of their channels.

    Motion blocks and motion conditioning that the export lacks keep their initial values.
    Raises: DianjingError as `load_weights`.
    """
    config = transformer.config
    adapt = partial(add_latent_channels, channels=config.in_channels, patch_size=config.patch_size)
    load_weights(transformer, folder, new_prefixes=MOTION_PREFIXES, adapt=adapt)
