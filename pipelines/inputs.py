"""Checks of a pipeline's tensors and prompts, before anything heavy runs."""

from collections.abc import Callable, Collection, Sequence
from numbers import Real
from typing import Any

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Generator, Tensor

from dianjing.pipelines.request import MAX_PICTURES, check_negative_prompt, check_prompt

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
CallbackOnStepEnd = Callable[[Any, int, Any, dict], dict] | PipelineCallback | MultiPipelineCallbacks


def or_default(value: Any, default: Any) -> Any:
    return default if value is None else value


def check_prompts(value: object) -> list[str]:
    """One prompt or a list of them, as a list."""
    prompts = [value] if isinstance(value, str) else value
    if not isinstance(prompts, list | tuple):
        raise ValueError(f"prompt is of type {type(value).__name__}; give a text or a list of texts")
    if not 1 <= len(prompts) <= MAX_PICTURES:
        raise ValueError(f"prompt is a list of {len(prompts)} texts; give 1 to {MAX_PICTURES}")
    name = "prompt" if len(prompts) == 1 else "prompt[{}]"
    return [check_prompt(prompt, name.format(i)) for i, prompt in enumerate(prompts)]


def check_negative_prompts(value: object, count: int) -> list[str]:
    """A negative prompt for each of `count` prompts: one text stands for all, None for an empty one."""
    if value is None or isinstance(value, str):
        return [check_negative_prompt(value) or ""] * count
    if not isinstance(value, list | tuple) or len(value) != count:
        given = f"{len(value)} texts" if isinstance(value, list | tuple) else type(value).__name__
        raise ValueError(f"negative_prompt is {given}; give one text, or a list of {count}, one for each prompt")
    return [check_negative_prompt(prompt) or "" for prompt in value]


def check_embeds(
    embeds: Tensor | None, mask: Tensor | None, name: str, *, length: int, width: int, count: int | None
) -> int | None:
    """Check states (B, length, width) and their mask (B, length); return B, or None without states."""
    mask_name = name.replace("embeds", "attention_mask")
    if embeds is None:
        if mask is not None:
            raise ValueError(f"{mask_name} is given without {name}; give both or neither")
        return None
    if mask is None:
        raise ValueError(f"{name} is given without {mask_name}; give both")
    if embeds.ndim != 3 or tuple(embeds.shape[1:]) != (length, width):
        raise ValueError(f"{name} has shape {tuple(embeds.shape)}; this model takes (batch, {length}, {width})")
    if tuple(mask.shape) != tuple(embeds.shape[:2]):
        raise ValueError(f"{mask_name} has shape {tuple(mask.shape)}; {name} needs {tuple(embeds.shape[:2])}")
    if count is not None and embeds.shape[0] != count:
        raise ValueError(f"{name} is for {embeds.shape[0]} prompts, where there are {count}")
    return embeds.shape[0]


def check_latents(latents: Tensor | None, shape: Sequence[int]) -> None:
    if latents is not None and tuple(latents.shape) != tuple(shape):
        raise ValueError(f"latents have shape {tuple(latents.shape)}; this call needs {tuple(shape)}")


def check_generator(generator: object, batch_size: int) -> None:
    """One generator, or a list with one for each picture."""
    each = list(generator) if isinstance(generator, list | tuple) else [generator] * batch_size
    if len(each) != batch_size:
        raise ValueError(f"generator is a list of {len(each)} for {batch_size} pictures; give one for each picture")
    for one in each:
        if one is not None and not isinstance(one, Generator):
            raise ValueError(f"generator is a {type(one).__name__}; give torch.Generator().manual_seed(seed)")


def check_output_type(value: object, allowed: Collection[str] = OUTPUT_TYPES) -> None:
    if value not in allowed:
        raise ValueError(f"output_type is {value!r}; give one of {', '.join(allowed)}")


def check_callback_inputs(names: object, allowed: Collection[str]) -> list[str]:
    if not isinstance(names, list | tuple) or any(name not in allowed for name in names):
        raise ValueError(f"callback_on_step_end_tensor_inputs is {names!r}; give a list of {', '.join(allowed)}")
    return list(names)


def check_image_meta_size(original_size: object, target_size: object, crops_coords_top_left: object) -> tuple[int, ...]:
    """Three pairs of px, (height, width) or (top, left), as the six numbers that the model takes."""
    pairs = {
        "original_size": original_size,
        "target_size": target_size,
        "crops_coords_top_left": crops_coords_top_left,
    }
    for name, pair in pairs.items():
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(number, int) for number in pair):
            raise ValueError(f"{name} is {pair!r}; give two whole numbers of pixels")
    return tuple(number for pair in pairs.values() for number in pair)  # type: ignore[attr-defined]


def check_rescale(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ValueError(f"guidance_rescale is {value!r}; give a number from 0 (off) to 1")
    return float(value)
