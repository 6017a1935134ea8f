"""Export of trained weights as diffusers, transformers and PEFT folders, and loading them into a new run."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, HunyuanDiT2DControlNetModel
from diffusers.schedulers import SchedulerMixin
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dianjing.dit import DiT
from dianjing.errors import DianjingError
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.weights.adapter_files import LORA_WEIGHTS_NAME, PEFT_WEIGHTS_NAME
from dianjing.weights.adapters import PEFT_PREFIX, fetch_adapters
from dianjing.weights.product_adapters import read_product_adapter
from dianjing.weights.trigger_words import write_trigger_words


def save_module(module: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write a diffusers or transformers model as a folder in the given dtype; the model itself is not changed."""
    nn.Module.to(deepcopy(module), dtype).save_pretrained(folder)


def load_autoencoder(folder: Path) -> AutoencoderKL:
    """Load an AutoencoderKL from a local folder, safetensors only, in evaluation mode as diffusers does.

    Raises: DianjingError if the folder holds none that can be read.
    """
    try:
        (folder / "config.json").stat()  # or else diffusers looks for a repository of this name
        return AutoencoderKL.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError) as error:
        raise DianjingError("autoencoder_unreadable", folder=folder, reason=str(error).split("\n")[0]) from None


def load_weights(
    module: nn.Module,
    folder: Path,
    *,
    new_prefixes: tuple[str, ...] = (),
    adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
) -> None:
    """Load exported weights of any dtype, as `adapt` changes them, into a model with the same shapes.

    Weights whose names start with one of `new_prefixes` may be missing and keep their initial values. Embeddings may
    have more rows than the export; the new rows are scaled to the standard deviation of the trained ones.
    Raises: DianjingError if the folder holds no weights, or their names or shapes differ otherwise.
    """
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise DianjingError("export_file_count", folder=folder, count=len(files))
    loaded, initial = adapt(load_file(files[0])), module.state_dict()
    embeddings = [f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.Embedding)]
    for name in set(embeddings) & set(loaded):
        if initial[name].shape[1:] == loaded[name].shape[1:]:
            new_rows = initial[name][len(loaded[name]) :]
            scale = loaded[name].float().std() / initial[name].std()
            loaded[name] = torch.cat([loaded[name].to(new_rows), new_rows * scale])
    try:
        missing, unexpected = module.load_state_dict(loaded, strict=False)
    except RuntimeError as error:
        raise DianjingError("start_weights_shapes", path=files[0], reason=_get_first_mismatch(error)) from None
    tied = {tensor.data_ptr() for name, tensor in module.state_dict().items() if name in loaded}
    missing = [n for n in missing if initial[n].data_ptr() not in tied and not n.startswith(new_prefixes or "\n")]
    if missing or unexpected:
        raise DianjingError(
            "start_weights_names",
            path=files[0],
            missing=len(missing),
            unexpected=len(unexpected),
            example_name=[*missing, *unexpected][0],
        )


def _get_first_mismatch(error: RuntimeError) -> str:
    """The first of the weights that torch lists, of which there may be hundreds."""
    lines = str(error).splitlines()
    return lines[min(1, len(lines) - 1)].strip()


def export_pipeline(
    folder: Path, dtype: torch.dtype, *, base: Path, trained_modules: Mapping[str, nn.Module], scheduler: SchedulerMixin
) -> None:
    """Write the pipeline in `base` with trained modules in place of its own, and verify what was written."""
    modules = {name: nn.Module.to(deepcopy(module), dtype) for name, module in trained_modules.items()}
    pipe = TextToImagePipeline.from_pretrained(base, **modules, dtype=dtype)
    pipe.scheduler = scheduler
    pipe.save_pretrained(folder)
    for name, module in modules.items():
        _check_equal(type(module).from_pretrained(folder / name, dtype=dtype), module)


def export_adapter(
    folder: Path, dtype: torch.dtype, *, transformer: DiT, scheduler: SchedulerMixin, trigger_words: Sequence[str] = ()
) -> None:
    """Write the adapter of a transformer, and verify what was written.

    LoRA and DoRA are written as diffusers loads them, LoHa and LoKr as a folder of PEFT; the words that the adapter
    gave a meaning to are in the metadata of its file.
    """
    weights = {name: weight.to(dtype) for name, weight in get_peft_model_state_dict(transformer).items()}
    config = transformer.peft_config["default"]
    scheduler.save_pretrained(folder / "scheduler")
    if config.peft_type == "LORA":
        TextToImagePipeline.save_lora_weights(folder, weights, transformer_lora_adapter_metadata=config.to_dict())
        write_trigger_words(folder / LORA_WEIGHTS_NAME, trigger_words)
        reloaded = fetch_adapters(folder)["transformer"].state
    else:
        config.save_pretrained(str(folder))
        named = {PEFT_PREFIX + name: weight.cpu().contiguous() for name, weight in weights.items()}
        save_file(named, folder / PEFT_WEIGHTS_NAME, metadata={"format": "pt"})
        write_trigger_words(folder / PEFT_WEIGHTS_NAME, trigger_words)
        product = read_product_adapter(folder)
        reloaded = {} if product is None else product.state
    assert reloaded.keys() == weights.keys()
    assert all(torch.equal(reloaded[name], weight.cpu()) for name, weight in weights.items())


def export_controlnet(
    folder: Path, dtype: torch.dtype, *, controlnet: HunyuanDiT2DControlNetModel, scheduler: SchedulerMixin
) -> None:
    """Write a ControlNet, which diffusers loads, and verify what was written."""
    module = nn.Module.to(deepcopy(controlnet), dtype)
    module.save_pretrained(folder)
    scheduler.save_pretrained(folder / "scheduler")
    _check_equal(HunyuanDiT2DControlNetModel.from_pretrained(folder, dtype=dtype), module)


def _check_equal(reloaded: nn.Module, written: nn.Module) -> None:
    weights = reloaded.state_dict()
    assert all(torch.equal(weights[name], weight.cpu()) for name, weight in written.state_dict().items())
