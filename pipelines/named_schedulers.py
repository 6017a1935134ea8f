"""Schedulers by name with options, such as "EulerDiscreteScheduler:use_karras_sigmas", for the model they sample from.

The noise process and what the model predicts are always the model's own; options are those of diffusers' class.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import diffusers
from diffusers.schedulers import SchedulerMixin

from dianjing.errors import DianjingError, Message
from dianjing.pipelines.named_choice import NamedChoice, check_option_names, check_option_value, parse_choice
from dianjing.pipelines.schedulers import (
    FITTING_SETTINGS,
    FLOW_PREDICTION,
    UNFIT_SCHEDULERS,
    check_scheduler,
    get_fitting_schedulers,
    get_prediction_type,
)
from dianjing.pipelines.validation import format_value

SUFFIX = "Scheduler"
PROCESS_SETTINGS = (  # of the model, not of the way it is sampled
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "predict_epsilon",
    "rescale_betas_zero_snr",
    "use_flow_sigmas",
    "clip_sample",
    "clip_sample_range",
    "set_alpha_to_one",
    "snr_shift_scale",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "variance_type",
)
FLOW_SHIFT_NAMES = ("flow_shift", "shift")  # of one setting, by class


def make_scheduler(text: str, trained: SchedulerMixin) -> SchedulerMixin:
    """Make the scheduler "NAME:option=value,…" for the model whose own scheduler is `trained`.

    NAME: a class of diffusers, with or without "Scheduler" and in any case. flow_shift: for every class that has a
    shift. Raises: DianjingError for a class that cannot sample from the model, with those that can, and for options
    that the class does not have or refuses.
    """
    choice = parse_choice(text, "scheduler")
    name = _find_class(choice.name, trained)
    scheduler_class = getattr(diffusers, name)
    defaults = _get_options(scheduler_class)
    shift_name = next((each for each in FLOW_SHIFT_NAMES if each in defaults), None)
    options = {
        shift_name if option in FLOW_SHIFT_NAMES and shift_name is not None else option: value
        for option, value in choice.options.items()
    }
    choice = NamedChoice(name=name, options=options)
    check_option_names(choice, "scheduler", defaults)
    settings = {option: check_option_value(choice, option, defaults[option]) for option in options}
    try:
        scheduler = _make_for_model(scheduler_class, trained, settings)
    except ImportError as error:  # diffusers stands a class in that asks for the package
        raise DianjingError("scheduler_package_missing", scheduler=name, reason=_get_first_line(error)) from None
    except (ValueError, NotImplementedError, TypeError) as error:
        raise DianjingError("scheduler_options_refused", scheduler=name, reason=_get_first_line(error)) from None
    check_scheduler(scheduler, trained)
    return scheduler


def describe_scheduler(scheduler: Any, trained: SchedulerMixin | None) -> str:
    """Describe a scheduler as the text that `make_scheduler` makes it from; a class of one's own by its name alone."""
    name = type(scheduler).__name__
    if trained is None or scheduler is trained or getattr(diffusers, name, None) is not type(scheduler):
        return name
    if name not in get_fitting_schedulers(trained):
        return name
    own = _make_for_model(type(scheduler), trained).config
    differing = {
        option: scheduler.config.get(option)
        for option in _get_options(type(scheduler))
        if scheduler.config.get(option) != own.get(option)
    }
    options = {option: value for option, value in differing.items() if isinstance(value, bool | int | float | str)}
    return str(NamedChoice(name=name, options=options))


@contextmanager
def use_scheduler(pipe: Any, text: str | None) -> Iterator[None]:
    """Let a pipeline sample by the scheduler "NAME:option=value,…" inside the block; None leaves its own."""
    own = pipe.scheduler
    if text is not None:
        pipe.scheduler = make_scheduler(text, pipe.trained_scheduler or own)
    try:
        yield
    finally:
        pipe.scheduler = own


def _find_class(name: str, trained: SchedulerMixin) -> str:
    fitting = get_fitting_schedulers(trained)
    normalized = name.lower().removesuffix(SUFFIX.lower())
    candidates: list[tuple[Message | None, Sequence[str]]] = [(None, fitting), *UNFIT_SCHEDULERS.items()]
    for reason, classes in candidates:
        found = next((each for each in classes if each.lower().removesuffix(SUFFIX.lower()) == normalized), None)
        if found is not None and reason is None:
            return found
        if found is not None:
            raise DianjingError("scheduler_unfit", scheduler=found, reason=reason, fitting=fitting)
    raise DianjingError("value_not_allowed", name="scheduler", value=format_value(name), allowed=fitting)


def _get_options(scheduler_class: Any) -> dict[str, Any]:
    """Options of a class with their defaults: its settings but those that are the model's."""
    parameters = inspect.signature(scheduler_class.__init__).parameters.values()
    return {
        each.name: each.default
        for each in parameters
        if each.name not in ("self", *PROCESS_SETTINGS) and each.kind is each.POSITIONAL_OR_KEYWORD
    }


def _make_for_model(
    scheduler_class: Any, trained: SchedulerMixin, settings: Mapping[str, object] | None = None
) -> SchedulerMixin:
    """Make a scheduler of a class with the noise process of a model's own scheduler, and these settings."""
    changed = {name: value for name, (value, _) in FITTING_SETTINGS.items() if _takes(scheduler_class, name)}
    if get_prediction_type(trained) == FLOW_PREDICTION:
        changed |= {"use_flow_sigmas": True, "prediction_type": FLOW_PREDICTION}
        shifts = (trained.config.get(name) for name in FLOW_SHIFT_NAMES)
        changed |= dict.fromkeys(FLOW_SHIFT_NAMES, next((shift for shift in shifts if shift is not None), 1.0))
    changed |= settings or {}
    config = {**trained.config, **changed}
    # diffusers passes over what is named here, even where the value is another one
    config["_use_default_values"] = [name for name in config.get("_use_default_values", ()) if name not in changed]
    return scheduler_class.from_config(config)


def _takes(scheduler_class: Any, name: str) -> bool:
    return name in inspect.signature(scheduler_class.__init__).parameters


def _get_first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
