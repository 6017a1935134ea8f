"""Models with random weights, made where they compute; one set of weights serves every implementation."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, HunyuanDiT2DModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase, T5Config, T5EncoderModel

from benchmarks.contenders import make_scheduler
from benchmarks.gpu.scales import Scale
from benchmarks.pictures import PROMPT
from benchmarks.sizes import SEED, disturb_norms
from dianjing.dit import DiT
from dianjing.train.tokenizers import make_bert_tokenizer, make_t5_tokenizer

DTYPE = torch.bfloat16


@contextmanager
def default_device_and_dtype(device: torch.device, dtype: torch.dtype = DTYPE) -> Iterator[None]:
    """Modules made inside have their weights there, in that dtype, from the first."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(SEED)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def freeze(model: nn.Module) -> Any:
    """Switch to evaluation, without gradients."""
    return model.eval().requires_grad_(False)


def make_theirs(scale: Scale, device: torch.device) -> HunyuanDiT2DModel:
    """diffusers' model, with norms away from one and zero."""
    with default_device_and_dtype(device):
        model = freeze(HunyuanDiT2DModel(**scale.transformer))
        disturb_norms(model)
    return model


def share(model: nn.Module, copy: nn.Module) -> Any:
    """`copy`, made without values, with the tensors of `model` as its own parameters."""
    copy.load_state_dict(model.state_dict(), assign=True)
    return freeze(copy)


def their_copy(theirs: HunyuanDiT2DModel) -> HunyuanDiT2DModel:
    """Another module over the same tensors."""
    with torch.device("meta"):
        copy = HunyuanDiT2DModel.from_config(theirs.config)
    return share(theirs, copy)


def our_copy(theirs: HunyuanDiT2DModel) -> DiT:
    """Our model over the tensors of theirs."""
    taken = inspect.signature(DiT.__init__).parameters
    with torch.device("meta"):
        copy = DiT(**{name: theirs.config[name] for name in taken if name in theirs.config})
    return share(theirs, copy)


def compile_blocks(model: nn.Module, scale: Scale) -> Any:
    """Each block as one graph of fixed shapes, compiled once for all blocks that are alike."""
    for block in model.blocks:
        block.compile(fullgraph=True, dynamic=False, backend=scale.compiler)
    return model


def make_parts(scale: Scale, device: torch.device) -> dict[str, Any]:
    """All that a pipeline takes besides the transformer."""
    with default_device_and_dtype(device):
        models = {
            "vae": freeze(AutoencoderKL(**scale.vae)),
            "text_encoder": freeze(BertModel(BertConfig(**scale.bert))),
            "text_encoder_2": freeze(T5EncoderModel(T5Config(**scale.t5))),
        }
    tokenizers: dict[str, PreTrainedTokenizerBase] = {
        "tokenizer": make_bert_tokenizer([PROMPT], model_max_length=scale.transformer["text_len"]),
        "tokenizer_2": make_t5_tokenizer([PROMPT], model_max_length=scale.transformer["text_len_t5"]),
    }
    return {**models, **tokenizers, "scheduler": make_scheduler(), "safety_checker": None, "feature_extractor": None}


def count_flops(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products, convolutions and attention in `work`."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return counter.get_total_flops()


def forward_flops(scale: Scale, size_px: int) -> int:
    """Operations of one forward of diffusers' model for one sample, counted without computing anything."""
    meta, config = torch.device("meta"), scale.transformer
    side = size_px // 8
    tokens = (side // config["patch_size"]) ** 2
    with torch.device(meta):
        model = freeze(HunyuanDiT2DModel(**config))
        lengths = (config["text_len"], config["text_len_t5"])
        states = [
            torch.empty(1, length, config[width])
            for length, width in zip(lengths, ("cross_attention_dim", "cross_attention_dim_t5"), strict=True)
        ]
        masks = [torch.empty(1, length) for length in lengths]
        rotary = (torch.empty(tokens, config["attention_head_dim"]),) * 2
        latents, timestep = torch.empty(1, config["in_channels"], side, side), torch.empty(1)
        return count_flops(
            lambda: model(latents, timestep, states[0], masks[0], states[1], masks[1], image_rotary_emb=rotary)
        )


def decode_flops(scale: Scale, size_px: int) -> int:
    """Operations of decoding one picture."""
    with torch.device("meta"):
        vae = freeze(AutoencoderKL(**scale.vae))
        latents = torch.empty(1, scale.vae["latent_channels"], size_px // 8, size_px // 8)
        return count_flops(lambda: vae.decode(latents))


def encode_flops(scale: Scale) -> int:
    """Operations of reading one prompt with both encoders."""
    total = 0
    for kind, config, length in (
        (BertModel, BertConfig(**scale.bert), "text_len"),
        (T5EncoderModel, T5Config(**scale.t5), "text_len_t5"),
    ):
        with torch.device("meta"):
            encoder, tokens = freeze(kind(config)), scale.transformer[length]
            ids = torch.zeros(1, tokens, dtype=torch.long)
            total += count_flops(partial(encoder, ids))
    return total
