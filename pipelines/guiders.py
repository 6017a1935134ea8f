"""Guiders of diffusers by name or as objects, and the prediction of a step by one of them.

A guider asks for predictions from the prompts, from the negative prompts, or with parts of the model left out, and
combines them. B batch; latents are B C Y X or B C F Y X.
"""

import inspect
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dianjing.errors import DianjingError
from dianjing.pipelines.named_choice import NamedChoice, check_option_names, check_option_value, parse_choice
from dianjing.pipelines.validation import check_guidance_scale, check_number, coalesce, format_value

if TYPE_CHECKING:
    from diffusers.guiders import BaseGuidance
    from torch import Tensor

    from dianjing.dit import Conditioning, DiT
    from dianjing.pipelines.denoiser import Denoiser, SamplingStep
    from dianjing.pipelines.embeds import PromptEmbeds

GUIDANCE_MODES: Mapping[str, tuple[str, Mapping[str, float]]] = {  # name -> class of diffusers, defaults of our own
    "cfg": ("ClassifierFreeGuidance", {}),
    "interval": ("ClassifierFreeGuidance", {"start": 0.1, "stop": 0.8}),
    "apg": ("AdaptiveProjectedGuidance", {}),
    "cfg_zero_star": ("ClassifierFreeZeroStarGuidance", {}),
    "skip_layer": ("SkipLayerGuidance", {}),
    "pag": ("PerturbedAttentionGuidance", {}),
    "auto": ("AutoGuidance", {}),
    "tangential": ("TangentialClassifierFreeGuidance", {}),
}
# layers that a guider of a mode changes: the argument for its configurations, and what they leave out
LAYER_CONFIGS: Mapping[str, tuple[str, Mapping[str, bool]]] = {
    "skip_layer": ("skip_layer_config", {}),
    "pag": ("perturbed_guidance_config", {"skip_attention": False, "skip_attention_scores": True, "skip_ff": False}),
    "auto": ("auto_guidance_config", {}),
}
LAYER_CONFIG_NAMES = tuple(name for name, _ in LAYER_CONFIGS.values())
LAYERS_OPTION = "layers"
BLOCKS = "blocks"  # of `DiT`
# arguments of guiders that a call has by itself, or that stand in LAYERS_OPTION
CALL_ARGUMENTS = ("guidance_scale", "guidance_rescale", "enabled")
LAYER_ARGUMENTS = (*LAYER_CONFIG_NAMES, "skip_layer_guidance_layers", "perturbed_guidance_layers")
LAYER_ARGUMENTS += ("auto_guidance_layers", "dropout")
PREDICTIONS = ("pred_cond", "pred_uncond", "pred_cond_skip")


def parse_guidance_mode(text: object) -> NamedChoice:
    """Parse a guidance mode, such as "apg" or "pag:layers=3+4", before anything heavy is imported.

    Raises: DianjingError for an unknown mode or a text of another form.
    """
    choice = parse_choice(text, "guidance_mode")
    if choice.name not in GUIDANCE_MODES:
        raise DianjingError(
            "value_not_allowed", name="guidance_mode", value=format_value(choice.name), allowed=list(GUIDANCE_MODES)
        )
    return choice


def make_guider(
    mode: str, *, guidance_scale: float, guidance_rescale: float = 0.0, num_layers: int | None = None
) -> "BaseGuidance":
    """Make the guider of a mode; layers that it changes are the middle one of num_layers, unless the mode names them.

    num_layers: None checks a mode without its model. Raises: DianjingError for an option that does not fit.
    """
    from diffusers import guiders

    choice = parse_guidance_mode(mode)
    class_name, defaults = GUIDANCE_MODES[choice.name]
    guider_class = getattr(guiders, class_name)
    parameters = inspect.signature(guider_class.__init__).parameters
    names = [name for name in parameters if name not in (*CALL_ARGUMENTS, *LAYER_ARGUMENTS, "self")]
    check_option_names(choice, "guidance_mode", [*names, *([LAYERS_OPTION] if choice.name in LAYER_CONFIGS else [])])
    arguments: dict[str, Any] = {**defaults, "guidance_scale": guidance_scale, "guidance_rescale": guidance_rescale}
    for name in names:
        if name in choice.options:
            arguments[name] = check_option_value(choice, name, parameters[name].default)
    if choice.name in LAYER_CONFIGS:
        config_name, _ = LAYER_CONFIGS[choice.name]
        arguments[config_name] = _make_layer_config(choice, num_layers=num_layers)
    try:
        with _without_experimental_warning():
            return guider_class(**arguments)
    except ValueError as error:
        raise DianjingError("guider_refused", mode=choice.name, reason=str(error)) from None


@contextmanager
def _without_experimental_warning() -> Iterator[None]:
    """Silence what diffusers logs for every guider that is made: its classes may change, which is for this package."""
    logger = logging.getLogger("diffusers.guiders.guider_utils")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was_disabled


def _make_layer_config(choice: NamedChoice, *, num_layers: int | None) -> Any:
    from diffusers.hooks import LayerSkipConfig

    layers: Any = choice.options.get(LAYERS_OPTION, (num_layers or 0) // 2)
    layers = layers if isinstance(layers, tuple) else (layers,)
    if not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in layers):
        raise DianjingError(
            "choice_option_type", choice=choice.name, option=LAYERS_OPTION, value=layers[0], example="3+4"
        )
    check_layers(layers, num_layers)
    return LayerSkipConfig(indices=list(layers), fqn=BLOCKS, **LAYER_CONFIGS[choice.name][1])


def check_layers(layers: Sequence[int], num_layers: int | None) -> None:
    """Raise DianjingError for a layer that a transformer of num_layers does not have."""
    if num_layers is not None and not all(0 <= layer < num_layers for layer in layers):
        raise DianjingError("guider_layers_out_of_range", layers=list(layers), maximum=num_layers - 1)


def resolve_guider(
    guider: "BaseGuidance | str | None",
    guidance_scale: float | None,
    *,
    default_scale: float,
    guidance_rescale: float,
    num_layers: int,
) -> tuple["BaseGuidance | None", float, float]:
    """Resolve the `guider` of a call to an object, and return it with its scale and rescaling.

    A mode takes the scales of the call; an object has its own. Raises: DianjingError for both, and for an object that
    asks for what `DiT` does not predict.
    """
    if guider is None or isinstance(guider, str):
        scale = check_guidance_scale(coalesce(guidance_scale, default_scale))
        rescale = check_number(guidance_rescale, "guidance_rescale", low=0, high=1)
        if guider is None:
            return None, scale, rescale
        made = make_guider(guider, guidance_scale=scale, guidance_rescale=rescale, num_layers=num_layers)
        return made, scale, rescale
    check_guider(guider, num_layers=num_layers)
    if guidance_scale is not None or guidance_rescale:
        raise DianjingError("guider_has_own_scale", guider=type(guider).__name__)
    scale, rescale = guider.guidance_scale, guider.guidance_rescale
    return guider, float(scale), float(rescale)


def check_guider(guider: Any, *, num_layers: int) -> None:
    """Check that an object is a guider for a model that predicts from prompts and negative prompts.

    Raises: DianjingError for another object, and for layers that the transformer does not have.
    """
    from diffusers.guiders import BaseGuidance

    is_guider = isinstance(guider, BaseGuidance) and hasattr(guider, "guidance_scale")
    if not is_guider or not {*guider._input_predictions} <= {*PREDICTIONS}:
        classes = sorted({class_name for class_name, _ in GUIDANCE_MODES.values()})
        raise DianjingError("guider_unfit", class_name=type(guider).__name__, fitting=classes)
    for config in _get_layer_configs(guider):
        if isinstance(config.indices, int):  # diffusers passes a layer on where a list is due
            config.indices = [config.indices]
        check_layers(config.indices, num_layers)


def with_guidance_scale(guider: "BaseGuidance | None", scale: float) -> "BaseGuidance | None":
    """Return a guider with another guidance scale: a copy, unless it has that scale."""
    if guider is None or scale == guider.guidance_scale:
        return guider
    with _without_experimental_warning():
        return guider.new(guidance_scale=scale)


def describe_guider(guider: "BaseGuidance") -> str:
    """Describe a guider as the mode that `make_guider` makes it from, apart from its scales; else as its class."""
    class_name = type(guider).__name__
    name = next((name for name, (known, _) in GUIDANCE_MODES.items() if known == class_name), None)
    if name is None:
        return class_name
    options: dict[str, Any] = {}
    for parameter in inspect.signature(type(guider).__init__).parameters.values():
        is_option = parameter.name not in (*CALL_ARGUMENTS, *LAYER_ARGUMENTS, "self")
        value = guider.config.get(parameter.name, parameter.default) if is_option else None
        if is_option and value != parameter.default:
            options[parameter.name] = value
    layers = tuple(layer for config in _get_layer_configs(guider) for layer in config.indices)
    if layers:
        expected = _make_layer_config(NamedChoice(name=name, options={LAYERS_OPTION: layers}), num_layers=None)
        for config in _get_layer_configs(guider):
            if replace(config, indices=expected.indices, fqn=BLOCKS) != expected:
                return class_name
        options[LAYERS_OPTION] = layers
    return str(NamedChoice(name=name, options=options))


def uses_negative_prompts(guider: "BaseGuidance") -> bool:
    """True if a guider asks for predictions from the negative prompts at any step."""
    neutral = 0.0 if getattr(guider, "use_original_formulation", False) else 1.0
    return guider._enabled and not math.isclose(guider.guidance_scale, neutral)


def changes_model(guider: "BaseGuidance | None") -> bool:
    """True if a guider leaves out parts of the model for some predictions."""
    from diffusers.guiders import BaseGuidance

    return guider is not None and type(guider).prepare_models is not BaseGuidance.prepare_models


def predict_with_guider(
    guider: "BaseGuidance",
    transformer: "DiT",
    denoiser: "Denoiser",
    step: "SamplingStep",
    embeds: "PromptEmbeds",
    conditioning: "Conditioning",
) -> "Tensor":
    """Predict the model output of a step as a guider combines it.

    conditioning: of 2B rows, those of the negative prompts first; of B rows, there are none. What the guider leaves out
    of the model is back when this returns.
    """
    previous = _count_conditions(guider, step, index=step.index - 1) if step.index else None
    if _count_conditions(guider, step, index=step.index) != previous:
        transformer.reset_cache()  # which holds what another number of rows left
    batches = guider.prepare_inputs({"half": ("prompt", "negative_prompt")})
    batch_size = len(step.latents)
    if changes_model(guider):  # fused blocks would not see what is left out; and all predictions round alike
        unfused = replace(conditioning, fused_blocks=None)
        halves = {
            "prompt": (embeds, unfused.index_batch(slice(-batch_size, None))),
            "negative_prompt": (embeds.select_negative(), unfused.index_batch(slice(batch_size))),
        }
        for batch in batches:
            guider.prepare_models(transformer)
            try:
                (batch.noise_pred,) = denoiser.predict(step, *halves[batch.half])
            finally:
                guider.cleanup_models(transformer)
    else:
        if len(batches) == 1:
            conditioning = conditioning.index_batch(slice(-batch_size, None))
        predictions = denoiser.predict(step, embeds, conditioning)
        for batch in batches:
            batch.noise_pred = predictions[-1 if batch.half == "prompt" else 0]
    return guider(batches)[0]


def _count_conditions(guider: "BaseGuidance", step: "SamplingStep", *, index: int) -> int:
    """Set a guider to the step at `index` of a run, and return the number of predictions that it asks for."""
    guider.set_state(step=index, num_inference_steps=step.num_steps, timestep=step.timestep)
    return guider.num_conditions


def _get_layer_configs(guider: Any) -> list[Any]:
    return [*getattr(guider, "skip_layer_config", ()), *(getattr(guider, "auto_guidance_config", None) or ())]
