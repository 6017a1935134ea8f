"""Fill the latent cache of a fine-tuning run with Ray Data, on many machines.

    python -m dianjing.train.data.ray_cache CONFIG [--set a.b=c]

It writes the same files under the same keys as a training run does. Every machine must see the data sets, the model
and data.cache_folder under the same paths.
Exit codes: 0 done, 2 wrong input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dianjing.errors import DianjingError, get_language
from dianjing.train.config.finetune import FinetuneRunConfig
from dianjing.train.config.run_file import read_run_config
from dianjing.train.data.latent_cache import TEXT_BATCH_SIZE, TEXT_ENCODER_CLASSES, EncodeItem, LatentCache
from dianjing.train.data.preparation import index_datasets, list_cached_texts, open_latent_cache
from dianjing.weights.resolve import resolve_model
from dianjing.weights.validate import validate_model

RayBatch = dict[str, Any]  # with the column "id", as ray.data.range names it


def _get_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class LatentsWorker:
    """A Ray actor that keeps an autoencoder in memory."""

    def __init__(self, latent_cache: LatentCache, items: Sequence[EncodeItem]) -> None:
        self.latent_cache, self.items = latent_cache, items
        self.vae = latent_cache.load_vae(_get_device())

    def __call__(self, rows: RayBatch) -> RayBatch:
        for index in rows["id"]:
            self.latent_cache.write_latents(self.vae, self.items[index])
        return rows


class TextStatesWorker:
    """A Ray actor that keeps a text encoder in memory."""

    def __init__(self, latent_cache: LatentCache, texts: Sequence[str], encoder_name: str) -> None:
        self.latent_cache, self.texts, self.encoder_name = latent_cache, texts, encoder_name
        self.encoder_and_tokenizer = latent_cache.load_text_encoder(encoder_name, _get_device())

    def __call__(self, rows: RayBatch) -> RayBatch:
        texts = [self.texts[index] for index in rows["id"]]
        self.latent_cache.write_text_states(*self.encoder_and_tokenizer, texts, self.encoder_name)
        return rows


def map_with_ray(worker: type, count: int, *worker_arguments: Any) -> None:
    """Distribute `count` indices over workers, one for each GPU, or for each core but one, that Ray has."""
    import ray

    if not count:
        return
    resources = ray.cluster_resources()
    num_gpus = int(resources.get("GPU", 0))
    num_workers = max(1, min(num_gpus or int(resources["CPU"]) - 1, -(-count // TEXT_BATCH_SIZE)))
    rows = ray.data.range(count).map_batches(
        worker,
        fn_constructor_args=worker_arguments,
        batch_size=TEXT_BATCH_SIZE,
        num_gpus=1 if num_gpus else 0,
        compute=ray.data.ActorPoolStrategy(size=num_workers),
    )
    rows.materialize()


def fill_latent_cache_with_ray(config: FinetuneRunConfig) -> None:
    """Encode whatever the cache of a run lacks.

    Raises: DianjingError if Ray is not installed, and for data or a model that cannot be used.
    """
    try:
        import ray
    except ImportError:
        raise DianjingError("ray_missing") from None
    folder = resolve_model(config.model.name)
    validate_model(folder)
    index = index_datasets(config, folder)
    print(index.summarize().render(get_language()), flush=True)
    latent_cache = open_latent_cache(config, folder)
    ray.init(ignore_reinit_error=True)
    items = latent_cache.list_missing_latents(index.records)
    map_with_ray(LatentsWorker, len(items), latent_cache, items)
    if config.trains_text_encoders:
        return
    texts = sorted(list_cached_texts(config, folder, index))
    for name in TEXT_ENCODER_CLASSES:
        missing = latent_cache.list_missing_text_states(texts, name)
        map_with_ray(TextStatesWorker, len(missing), latent_cache, missing, name)


def main(argv: Sequence[str] | None = None) -> int:
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m dianjing.train.data.ray_cache", description=description)
    parser.add_argument("config", type=Path, help="the run file (TOML)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides")
    arguments = parser.parse_args(argv)
    try:
        config = read_run_config(arguments.config, arguments.overrides)
        if config.task != "finetune":
            raise DianjingError("task_has_no_cache", task=config.task)
        fill_latent_cache_with_ray(config)
    except DianjingError as error:
        print(f"error: {error.render(get_language())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
