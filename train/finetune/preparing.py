"""From the run file of a fine-tuning to its task and batches: data, caches, model, in that order."""

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from dianjing.pipelines.fitting import fit
from dianjing.pipelines.line_art import line_art
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.train.caches import Cache
from dianjing.train.config import read_sets
from dianjing.train.data import Layout
from dianjing.train.finetune.batches import EncodedBatches, texts_of
from dianjing.train.finetune.controlnet import ControlNetTask
from dianjing.train.finetune.encoding import Encoded, Share
from dianjing.train.finetune.held_out import split
from dianjing.train.finetune.schedules import noising_of, scheduler_of
from dianjing.train.finetune.sections import FinetuneRun
from dianjing.train.finetune.task import FinetuneTask
from dianjing.train.finetune.texts import CachedStates, Say, Tokens
from dianjing.train.loop import Job
from dianjing.train.noising import Noising
from dianjing.train.sets.entries import Entry
from dianjing.train.sets.gathering import Gathered, gather
from dianjing.train.sets.looking import decode
from dianjing.train.sets.plan import FilePlan
from dianjing.train.sets.shapes import Shape, frames_of, shapes
from dianjing.train.sets.skipping import Skips
from dianjing.weights.fetching import find_folder
from dianjing.weights.loading import check_folder


def prepare(config: FinetuneRun, accelerator: Accelerator) -> Job:
    """Look at the data, fill the caches, then load the transformer.

    Raises: ValueError for data, a model or a cache that cannot be used.
    """
    run = config.run
    gathered, encoded = fill(config, accelerator)
    if config.model.trained == "film" and any(frames_of(shape) == 1 for shape in gathered.pictures):
        raise ValueError("model.trained = 'film' with pictures in the data sets, which would train nothing; "
                         "leave them out, or take model.trained = 'all'")  # fmt: skip
    kept, held_out = split(gathered, config.data.held_out)
    plan = make_plan(config, kept, processes=accelerator.num_processes, rank=accelerator.process_index)
    torch.manual_seed(run.seed)  # the adapter's first weights; the loop has a generator of its own
    say = Tokens(encoded.folder, dict(encoded.lengths)) if is_joint(config) else CachedStates(encoded)
    task = make_task(config, encoded, say, kept=kept, held_out=held_out)
    skips = Skips(run.folder, limit=min(int(config.data.drop_limit * kept.count), kept.count - 1))
    if accelerator.is_main_process:
        skips.begin()
    accelerator.wait_for_everyone()
    return Job(task=task, batches=EncodedBatches(plan, encoded, config.objective, say=say, seed=run.seed, skips=skips))


def make_task(
    config: FinetuneRun, encoded: Encoded, say: Say, *, kept: Gathered, held_out: dict[Shape, list[Entry]]
) -> FinetuneTask:
    has_clicks = any(entry.click is not None for found in kept.pictures.values() for entry in found)
    settings: dict[str, Any] = {"say": say, "half": half_of(config), "held_out": held_out, "has_clicks": has_clicks}
    if config.model.trained != "controlnet":
        return FinetuneTask(config, encoded, **settings)
    entries = [entry for found in kept.pictures.values() for entry in found]
    side = config.data.size_px
    drawings = []
    for index in range(len(config.samples.prompts)):
        entry = entries[index % len(entries)]
        picture, _ = fit(decode(entry.source, name=entry.name), height=side, width=side)
        drawings.append(line_art(picture))
    return ControlNetTask(config, encoded, **settings, drawings=drawings)


def is_joint(config: FinetuneRun) -> bool:
    return config.model.text_encoders == "joint"


def make_plan(config: FinetuneRun, gathered: Gathered, *, processes: int, rank: int) -> FilePlan:
    run = config.run
    layout = Layout(global_batch=run.batch_size, accumulation=run.accumulation, processes=processes, rank=rank)
    return FilePlan(gathered.pictures, gathered.repeats, layout=layout, seed=run.seed)


def fill(config: FinetuneRun, accelerator: Accelerator) -> tuple[Gathered, Encoded]:
    """The pictures, with a report in the run's folder, and all that is encoded of them."""
    folder = find_folder(config.model.name)
    check_folder(folder)
    gathered = gather_pictures(config, folder)
    if accelerator.is_main_process:
        report = config.run.folder / "data.json"
        gathered.save(report)
        print(f"{gathered.summary()}; names and reasons: {report}", flush=True)
    return gathered, encode(config, folder, gathered, accelerator)


def gather_pictures(config: FinetuneRun, folder: Path) -> Gathered:
    data = config.data
    vae, transformer = (read_json(folder / part / "config.json") for part in ("vae", "transformer"))
    multiple_px = 2 ** (len(vae["block_out_channels"]) - 1) * transformer["patch_size"]
    if data.size_px < multiple_px:
        raise ValueError(f"data.size_px is {data.size_px}; this model's pictures are at least {multiple_px} px")
    among = shapes(data.size_px, multiple_px=multiple_px, max_aspect=data.max_aspect)
    return gather(
        read_sets(data.sets), among, min_px=data.min_px, drop_limit=data.drop_limit, num_frames=data.num_frames,
        fps=data.fps,
    )  # fmt: skip


def encode(config: FinetuneRun, folder: Path, gathered: Gathered, accelerator: Accelerator) -> Encoded:
    """Fill the cache with what is missing, every process its share."""
    encoded = encoded_of(config, folder)
    share = Share(rank=accelerator.process_index, processes=accelerator.num_processes)
    encoded.fill_latents(gathered.pictures, device=accelerator.device, share=share)
    accelerator.wait_for_everyone()
    if is_joint(config):
        return encoded
    entries = [entry for found in gathered.pictures.values() for entry in found]
    texts = texts_of(entries) | set(config.samples.prompts)
    encoded.fill_states(texts, device=accelerator.device, share=share)
    accelerator.wait_for_everyone()
    return encoded


def encoded_of(config: FinetuneRun, folder: Path) -> Encoded:
    """Where a run's latents and states are kept; nothing is encoded yet."""
    transformer = read_json(folder / "transformer" / "config.json")
    lengths = {"text_encoder": transformer["text_len"], "text_encoder_2": transformer["text_len_t5"]}
    cache = Cache(config.data.cache.expanduser())
    return Encoded.of(
        folder,
        cache,
        dtype=half_of(config),
        lengths=lengths,
        draws_lines=config.model.trained == "controlnet",
        fps=config.data.fps,
    )


def noising_for(config: FinetuneRun) -> Noising:
    """Without any weights."""
    pipe = TextToImagePipeline.from_pretrained(config.model.name, transformer=None, text_encoder=None,
                                               text_encoder_2=None, vae=None)  # fmt: skip
    scheduler = scheduler_of(config.objective, pipe.scheduler)
    return noising_of(scheduler, min_snr_gamma=config.objective.min_snr_gamma)


def half_of(config: FinetuneRun) -> torch.dtype:
    return torch.bfloat16 if config.run.mixed_precision == "bf16" else torch.float32


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
