"""The caching of a fine-tuning as a Ray Data job, for many machines: the same cache, under the same keys.

    python -m dianjing.train.ray_caching CONFIG [--set a.b=c]

Every machine must see the data sets, the model and data.cache under the same paths.
Exit codes: 0 done, 2 wrong input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dianjing.train.config import read_config
from dianjing.train.finetune.batches import texts_of
from dianjing.train.finetune.encoding import ENCODERS, TEXTS_AT_ONCE, Encoded, Piece
from dianjing.train.finetune.preparing import encoded_of, gather_pictures, is_joint
from dianjing.train.finetune.sections import FinetuneRun
from dianjing.weights.fetching import find_folder
from dianjing.weights.loading import check_folder

Rows = dict[str, Any]  # of a batch: "id", as ray.data.range calls it


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class LatentsWorker:
    """One autoencoder, kept in memory."""

    def __init__(self, encoded: Encoded, pieces: Sequence[Piece]) -> None:
        self.encoded, self.pieces = encoded, pieces
        self.vae = encoded.load_vae(_device())

    def __call__(self, rows: Rows) -> Rows:
        for index in rows["id"]:
            self.encoded.write_latents(self.vae, self.pieces[index])
        return rows


class StatesWorker:
    """One text encoder, kept in memory."""

    def __init__(self, encoded: Encoded, texts: Sequence[str], name: str) -> None:
        self.encoded, self.texts, self.name = encoded, texts, name
        self.encoder = encoded.load_encoder(name, _device())

    def __call__(self, rows: Rows) -> Rows:
        self.encoded.write_states(*self.encoder, [self.texts[index] for index in rows["id"]], self.name)
        return rows


def run(worker: type, count: int, *given: Any) -> None:
    """Deal `count` indices out to workers, one for each GPU or core that Ray has."""
    import ray

    if not count:
        return
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    workers = max(1, min(gpus or int(resources["CPU"]) - 1, -(-count // TEXTS_AT_ONCE)))
    rows = ray.data.range(count).map_batches(
        worker, fn_constructor_args=given, batch_size=TEXTS_AT_ONCE, num_gpus=1 if gpus else 0,
        compute=ray.data.ActorPoolStrategy(size=workers),
    )  # fmt: skip
    rows.materialize()


def fill(config: FinetuneRun) -> None:
    """All that is missing of a run's cache.

    Raises: ValueError as `dianjing train --cache-only`, and where Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("this takes Ray: pip install 'dianjing[ray]'") from None
    folder = find_folder(config.model.name)
    check_folder(folder)
    gathered = gather_pictures(config, folder)
    print(gathered.summary(), flush=True)
    encoded = encoded_of(config, folder)
    ray.init(ignore_reinit_error=True)
    pieces = encoded.missing_latents(gathered.pictures)
    run(LatentsWorker, len(pieces), encoded, pieces)
    if is_joint(config):
        return
    texts = sorted(texts_of([e for found in gathered.pictures.values() for e in found]) | set(config.samples.prompts))
    for name in ENCODERS:
        missing = encoded.missing_states(texts, name)
        run(StatesWorker, len(missing), encoded, missing, name)


def main(arguments: Sequence[str] | None = None) -> int:
    lines = (__doc__ or "").split("\n")
    parser = argparse.ArgumentParser(prog="python -m dianjing.train.ray_caching", description=lines[0])
    parser.add_argument("config", type=Path, help="the run file (TOML)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="overrides")
    given = parser.parse_args(arguments)

    try:
        config = read_config(given.config, given.overrides)
        if not isinstance(config, FinetuneRun):
            raise ValueError(f"a run of task {config.task!r} draws its samples anew and caches nothing")
        fill(config)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
