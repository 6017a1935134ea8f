"""Adapters of a server: loaded once from paths that its operator named, chosen by name in requests."""

from collections.abc import Mapping, Sequence
from typing import Any

from dianjing.demo.limits import AdapterInfo
from dianjing.pipelines.named_adapters import NamedAdapter, load_adapters
from dianjing.pipelines.schedulers import has_equal_process, load_adapter_scheduler
from dianjing.weights.adapter_sampling import read_adapter_sampling


class AdapterSwitch:
    """Switches the adapters of pipelines that share one transformer; nothing is ever fused into the weights.

    An adapter's own scheduler replaces that of the pipelines while the adapter is active.
    """

    def __init__(self, pipelines: Sequence[Any], sources: Sequence[NamedAdapter]):
        self.pipelines, self.sources = pipelines, {source.name: source for source in sources}
        self.model_scheduler = pipelines[0].scheduler
        load_adapters(pipelines[0], sources)
        self.sampling = {name: read_adapter_sampling(source.path) for name, source in self.sources.items()}
        self.schedulers = {name: self._load_scheduler(source) for name, source in self.sources.items()}
        self._metadata = {source.name: source.describe() for source in sources}
        self.activate({})

    def _load_scheduler(self, source: NamedAdapter) -> Any:
        """The scheduler of an adapter for few steps, or for another process than the model's; else the model's own."""
        scheduler = load_adapter_scheduler(source.path)
        if scheduler is None:
            return self.model_scheduler
        is_own = self.sampling[source.name] is not None or not has_equal_process(scheduler, self.model_scheduler)
        return scheduler if is_own else self.model_scheduler

    @property
    def infos(self) -> tuple[AdapterInfo, ...]:
        """Names, default strengths and noise processes of all adapters."""
        return tuple(
            AdapterInfo(
                name=name,
                scale=source.scale,
                process=_describe_process(self.schedulers[name]),
                sampling=self.sampling[name],
                has_own_scheduler=self.schedulers[name] is not self.model_scheduler,
            )
            for name, source in self.sources.items()
        )

    def activate(self, scales: Mapping[str, float]) -> None:
        """Activate the adapters of a request with their strengths, and no others."""
        if self.sources:
            pipe = self.pipelines[0]  # whose models all pipelines share
            if scales:
                pipe.enable_lora()
                pipe.set_adapters(list(scales), list(scales.values()))
            else:
                pipe.disable_lora()
        own = (self.schedulers[name] for name in scales if self.schedulers[name] is not self.model_scheduler)
        scheduler = next(own, self.model_scheduler)
        is_equal = has_equal_process(scheduler, self.model_scheduler)
        for pipe in self.pipelines:
            pipe.scheduler = scheduler
            pipe.trained_scheduler = self.model_scheduler if is_equal else scheduler

    def make_metadata(self, scales: Mapping[str, float] | None) -> dict[str, object]:
        """The setting `lora` of a result: names, strengths and hashes of its adapters, never their paths."""
        return {"lora": [{**self._metadata[name], "scale": scale} for name, scale in scales.items()]} if scales else {}


def describe_adapters(sources: Sequence[NamedAdapter]) -> tuple[AdapterInfo, ...]:
    """Describe adapters that act together on a pipeline, by which its requests know their steps and guidance scale."""
    samplings = [read_adapter_sampling(source.path) for source in sources]
    return tuple(
        AdapterInfo(name=source.name, scale=source.scale, sampling=sampling, has_own_scheduler=sampling is not None)
        for source, sampling in zip(sources, samplings, strict=True)
    )


def _describe_process(scheduler: Any) -> str:
    """The prediction and noise schedule of a scheduler; adapters of different ones cannot act together."""
    config = scheduler.config
    parts = (config.get(name) for name in ("prediction_type", "beta_schedule", "beta_end"))
    return " ".join(str(part) for part in parts if part is not None) or type(scheduler).__name__
