"""Models with random weights, created on the device; all implementations share the tensors of one model."""

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

from benchmarks.gpu.scales import BenchmarkScale
from benchmarks.images import PROMPT
from benchmarks.implementations import make_ddim_scheduler
from benchmarks.model_sizes import SEED, randomize_norms
from dianjing.dit import DiT
from dianjing.train.tokenizers import make_bert_tokenizer, make_t5_tokenizer

DTYPE = torch.bfloat16


@contextmanager
def default_device_and_dtype(device: torch.device, dtype: torch.dtype = DTYPE) -> Iterator[None]:
    """Create modules inside on this device and in this dtype, with a fixed seed."""
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(SEED)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(previous)


def freeze(model: nn.Module) -> Any:
    """Switch a model to evaluation without gradients, and return it."""
    return model.eval().requires_grad_(False)


def make_random_transformer(scale: BenchmarkScale, device: torch.device) -> HunyuanDiT2DModel:
    """Create diffusers' model with random weights, norms included."""
    with default_device_and_dtype(device):
        model = freeze(HunyuanDiT2DModel(**scale.transformer))
        randomize_norms(model)
    return model


def _share_tensors(model: nn.Module, copy: nn.Module) -> Any:
    """Give a module on the meta device the tensors of `model` as its parameters, and return it."""
    copy.load_state_dict(model.state_dict(), assign=True)
    return freeze(copy)


def share_with_diffusers_model(model: HunyuanDiT2DModel) -> HunyuanDiT2DModel:
    """Create another module of diffusers over the tensors of `model`."""
    with torch.device("meta"):
        copy = HunyuanDiT2DModel.from_config(model.config)
    return _share_tensors(model, copy)


def share_with_dit(model: HunyuanDiT2DModel) -> DiT:
    """Create Dianjing's model over the tensors of `model`."""
    parameters = inspect.signature(DiT.__init__).parameters
    with torch.device("meta"):
        copy = DiT(**{name: model.config[name] for name in parameters if name in model.config})
    return _share_tensors(model, copy)


def compile_blocks(model: nn.Module, scale: BenchmarkScale) -> Any:
    """Compile each block as one graph of fixed shapes; equal blocks share the compiled code."""
    for block in model.blocks:
        block.compile(fullgraph=True, dynamic=False, backend=scale.compiler)
    return model


def make_components(scale: BenchmarkScale, device: torch.device) -> dict[str, Any]:
    """Create all components of a pipeline except the transformer."""
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
    return {
        **models,
        **tokenizers,
        "scheduler": make_ddim_scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
    }


def count_flops(work: Callable[[], object]) -> int:
    """Count the floating-point operations of matrix products, convolutions and attention in `work`."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return counter.get_total_flops()


def count_forward_flops(scale: BenchmarkScale, size_px: int) -> int:
    """Count the operations of one forward of diffusers' model for one sample, on the meta device."""
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


def count_decode_flops(scale: BenchmarkScale, size_px: int) -> int:
    """Count the operations of decoding one image."""
    with torch.device("meta"):
        vae = freeze(AutoencoderKL(**scale.vae))
        latents = torch.empty(1, scale.vae["latent_channels"], size_px // 8, size_px // 8)
        return count_flops(lambda: vae.decode(latents))


def count_encode_flops(scale: BenchmarkScale) -> int:
    """Count the operations of encoding one prompt with both encoders."""
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
