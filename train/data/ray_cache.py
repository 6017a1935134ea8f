"""The caching of a fine-tuning as a Ray Data job, for many machines: the same cache, under the same keys.

    python -m dianjing.train.data.ray_cache CONFIG [--set a.b=c]

Every machine must see the data sets, the model and data.cache_folder under the same paths.
Exit codes: 0 done, 2 wrong input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.config.run_file import read_run_config
from dianjing.train.data.latent_batches import collect_texts
from dianjing.train.data.latent_cache import TEXT_BATCH_SIZE, TEXT_ENCODER_CLASSES, EncodeItem, LatentCache
from dianjing.train.data.preparation import index_datasets, open_latent_cache, trains_text_encoders
from dianjing.weights.resolve import resolve_model
from dianjing.weights.validate import validate_model

RayBatch = dict[str, Any]  # of a batch: "id", as ray.data.range calls it


def _get_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class LatentsWorker:
    """One autoencoder, kept in memory."""

    def __init__(self, latent_cache: LatentCache, items: Sequence[EncodeItem]) -> None:
        self.latent_cache, self.items = latent_cache, items
        self.vae = latent_cache.load_vae(_get_device())

    def __call__(self, rows: RayBatch) -> RayBatch:
        for index in rows["id"]:
            self.latent_cache.write_latents(self.vae, self.items[index])
        return rows


class TextStatesWorker:
    """One text encoder, kept in memory."""

    def __init__(self, latent_cache: LatentCache, texts: Sequence[str], encoder_name: str) -> None:
        self.latent_cache, self.texts, self.encoder_name = latent_cache, texts, encoder_name
        self.encoder_and_tokenizer = latent_cache.load_text_encoder(encoder_name, _get_device())

    def __call__(self, rows: RayBatch) -> RayBatch:
        self.latent_cache.write_text_states(
            *self.encoder_and_tokenizer, [self.texts[index] for index in rows["id"]], self.encoder_name
        )
        return rows


def map_with_ray(worker: type, count: int, *given: Any) -> None:
    """Deal `count` indices out to workers, one for each GPU or core that Ray has."""
    import ray

    if not count:
        return
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    workers = max(1, min(gpus or int(resources["CPU"]) - 1, -(-count // TEXT_BATCH_SIZE)))
    rows = ray.data.range(count).map_batches(
        worker,
        fn_constructor_args=given,
        batch_size=TEXT_BATCH_SIZE,
        num_gpus=1 if gpus else 0,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )
    rows.materialize()


def fill_latent_cache_with_ray(config: FinetuneRunConfig) -> None:
    """All that is missing of a run's cache.

    Raises: ValueError as `dianjing train --cache-only`, and where Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("this takes Ray: pip install 'dianjing[ray]'") from None
    folder = resolve_model(config.model.name)
    validate_model(folder)
    gathered = index_datasets(config, folder)
    print(gathered.summarize(), flush=True)
    encoded = open_latent_cache(config, folder)
    ray.init(ignore_reinit_error=True)
    pieces = encoded.list_missing_latents(gathered.records)
    map_with_ray(LatentsWorker, len(pieces), encoded, pieces)
    if trains_text_encoders(config):
        return
    texts = sorted(
        collect_texts([e for found in gathered.records.values() for e in found]) | set(config.samples.prompts)
    )
    for name in TEXT_ENCODER_CLASSES:
        missing = encoded.list_missing_text_states(texts, name)
        map_with_ray(TextStatesWorker, len(missing), encoded, missing, name)


def main(arguments: Sequence[str] | None = None) -> int:
    lines = (__doc__ or "").split("\n")
    parser = argparse.ArgumentParser(prog="python -m dianjing.train.data.ray_cache", description=lines[0])
    parser.add_argument("config", type=Path, help="the run file (TOML)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides")
    given = parser.parse_args(arguments)

    try:
        config = read_run_config(given.config, given.overrides)
        if not isinstance(config, FinetuneRunConfig):
            raise ValueError(f"a run of task {config.task!r} draws its samples anew and caches nothing")
        fill_latent_cache_with_ray(config)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
