"""Adapters of a request: their names and strengths, checked, and what they mean for its other parameters."""

from collections.abc import Mapping

from dianjing.demo.limits import ModelCapabilities
from dianjing.errors import DianjingError, Message
from dianjing.pipelines.few_steps import should_use_few_steps
from dianjing.pipelines.named_adapters import MAX_ADAPTER_SCALE
from dianjing.pipelines.validation import check_number, format_value


def check_adapters(adapters: object) -> dict[str, float]:
    """Check a mapping of adapter names to strengths; those of strength 0 are left out."""
    if not isinstance(adapters, Mapping):
        raise DianjingError("adapters_not_a_mapping", value=format_value(adapters))
    scales = {
        str(name): check_number(scale, f"adapters.{name}"[:60], low=-MAX_ADAPTER_SCALE, high=MAX_ADAPTER_SCALE)
        for name, scale in adapters.items()
    }
    return {name: scale for name, scale in scales.items() if scale}


def resolve_adapters(adapters: Mapping[str, float] | None, capabilities: ModelCapabilities) -> dict[str, float]:
    """Return the adapters of a request with their strengths; None stands for those that the server starts with.

    Raises: DianjingError for a name that the server does not have, and for adapters that predict different things.
    """
    served = {adapter.name: adapter for adapter in capabilities.adapters}
    if adapters is None:
        adapters = check_adapters({adapter.name: adapter.scale for adapter in capabilities.adapters})
    for name in adapters:
        if name not in served:
            if not served:
                raise DianjingError("no_adapter_served", name=format_value(name))
            raise DianjingError("adapter_not_served", name=format_value(name), names=list(served))
    if len({served[name].process for name in adapters}) > 1:
        raise DianjingError("adapters_disagree", processes=[f"{name}: {served[name].process}" for name in adapters])
    return dict(adapters)


def get_default_params(
    adapters: Mapping[str, float],
    capabilities: ModelCapabilities,
    *,
    of_model: tuple[int, float],
    guidance_mode: str | None,
) -> tuple[int, float]:
    """Default steps and guidance scale: those that an adapter of the request was distilled for, or those of the model.

    A guidance mode guides by the scale of the model.
    """
    found = (adapter.sampling for adapter in capabilities.adapters if adapter.name in adapters)
    sampling = next((each for each in found if each is not None), None)
    if sampling is None:
        return of_model
    return sampling.num_inference_steps, sampling.guidance_scale if guidance_mode is None else of_model[1]


def should_use_default_adapter(
    slow: bool | None,
    settings: Mapping[str, object],
    adapters: Mapping[str, float],
    capabilities: ModelCapabilities,
    *,
    is_default: bool = True,
) -> bool:
    """Return True if the model's default adapter draws a request with `settings` and `adapters`.

    The rule is that of `should_use_few_steps`. Raises: DianjingError where few steps are asked for and cannot be.
    """
    if not should_use_few_steps(slow, settings, has_adapters=bool(adapters), is_default=is_default):
        return False
    obstacle = _find_obstacle(adapters, capabilities)
    if obstacle is not None and slow is False:
        raise DianjingError("few_steps_impossible", reason=Message(obstacle))
    return obstacle is None


def _find_obstacle(adapters: Mapping[str, float], capabilities: ModelCapabilities) -> str | None:
    """Return the message of the reason why the model's default adapter cannot draw beside adapters; None without."""
    if capabilities.default_sampling is None:
        return "few_steps_not_there"
    has_own_scheduler = any(each.has_own_scheduler for each in capabilities.adapters if each.name in adapters)
    return "few_steps_of_adapter" if has_own_scheduler else None
