"""Films of data datasets_file: read, dealt into clips, clicked on, and trained on."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from dianjing import ImageToVideoPipeline, TextToVideoPipeline
from dianjing.dit import DiT
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import save_video
from dianjing.train import memory_estimate
from dianjing.train.config.finetune import FinetuneObjectiveConfig
from dianjing.train.data.motion_control import sample_control_augmentation
from dianjing.train.data.samples import MotionLabel, SampleRecord
from dianjing.train.run import train_model
from dianjing.train.trainer.loop import Outcome
from tests.train.finetuning import (
    CPU,
    build_setup,
    extrapolate_saved_bytes,
    get_export_folder,
    make_finetune_config,
    overfit,
)
from tests.train.tiny import CAPTIONS, UNINTERRUPTED

RECORD = GenerationMetadata(prompt="a", seed=0, settings={}, model="sticker", version="0")
FILM = {"model": {"trainable": "all"}, "data": {"num_frames": [3, 5], "fps": 8}}
CLICKED = ("0.webp", "1.mp4", "3.gif")


def moving(index, *, num_frames):
    """A white square that falls, two pixels a frame."""
    frames = np.full((num_frames, 16, 16, 3), 40 + 20 * index, np.uint8)
    for place, frame in enumerate(frames):
        frame[2 * place : 2 * place + 6, 5:11] = 255
    return frames


@pytest.fixture
def films(datasets_file):
    """Six films beside the pictures: clicked on and not, one too short, one broken."""
    folder = datasets_file.parent / "pictures"
    for index, ending in enumerate((".webp", ".mp4", ".webp", ".gif", ".mp4", ".mp4")):
        length = {2: 2, 4: 6}.get(index, 4)
        path = folder / f"f{index}{ending}"
        save_video(moving(index, num_frames=length), path, RECORD, fps=8, producer=None)
        path.with_suffix(".txt").write_text(CAPTIONS[index % 4], encoding="utf-8")
        if f"{index}{ending}" in CLICKED:
            mask = np.zeros((16, 16), np.uint8)
            mask[:6, 5:11] = 255
            Image.fromarray(mask).save(folder / f"f{index}.mask.png")
            (folder / f"f{index}.motion.{'zh' if index else 'en'}.txt").write_text("落下" if index else "sink")
    (folder / "f5.mp4").write_bytes(b"no film")
    Image.new("RGB", (16, 16), "red").save(folder / "f4.first.png")
    return datasets_file


@pytest.fixture
def only_films(films):
    for path in (films.parent / "pictures").glob("[0-9].*"):
        path.unlink()
    return films


ALONE = {"model": {"trainable": "motion"}, "data": {"max_rejected_fraction": 0.5}}


def film_config(tmp_path, base, films, name="run", **changes):
    changes = {**FILM, **changes}
    changes["data"] = {**FILM["data"], "max_rejected_fraction": 0.3, **changes.get("data", {})}
    return make_finetune_config(tmp_path / name, model=base, sets=films, changes=changes)


def test_films_go_to_the_longest_clip_they_fill_and_the_rest_is_named(tmp_path, model, films):
    config = film_config(tmp_path, model, films)
    plan = build_setup(config).batches.schedule
    names = {shape: sorted(entry.name for entry in found) for shape, found in plan.records.items()}
    assert names[16, 16, 3] == ["f0.webp", "f1.mp4", "f3.gif"]
    assert names[16, 16, 5] == ["f4.mp4"]
    assert len(names[16, 16]) == 6
    report = json.loads((config.run.folder / "data.json").read_text(encoding="utf-8"))
    reasons = {name.rpartition(": ")[2]: why for name, why in report["rejected"].items()}
    assert "the shortest clip has 3" in reasons["f2.webp"]
    assert "cannot be read as a film" in reasons["f5.mp4"]
    assert any(why == "the first 3 of 4 frames" for why in report["cropped"].values())
    assert plan.bucket_kinds == {"image", "clip"}


def test_films_are_left_out_by_name_where_no_length_is_asked_for(tmp_path, model, films):
    config = film_config(
        tmp_path, model, films, data={"num_frames": [], "max_rejected_fraction": 0.5}, model={"trainable": "lora"}
    )
    plan = build_setup(config).batches.schedule
    assert all(len(shape) == 2 for shape in plan.records)
    report = json.loads((config.run.folder / "data.json").read_text(encoding="utf-8"))["rejected"]
    assert sum("names no length" in why for why in report.values()) == 3  # of an animated picture the first frame stays


def clip_step(job, num_frames):
    plan = job.batches.schedule
    return next(step for step in range(plan.steps_per_epoch) if plan.bucket_at(step).num_frames == num_frames)


def test_batches_hold_each_frame_as_the_autoencoder_has_it_and_what_is_clicked(tmp_path, model, films):
    job = build_setup(film_config(tmp_path, model, films, objective={"first_frame_masking": 0}))
    vae = AutoencoderKL.from_pretrained(model / "vae")
    step = clip_step(job, 3)
    batch = job.batches[step]
    entries = [job.batches.schedule.get_sample(step, row).record for row in range(2)]
    for row, entry in enumerate(entries):
        frames = moving(int(entry.name[1]), num_frames=4)[:3]
        if entry.name.endswith(".webp"):  # the others lose a little
            with torch.no_grad():
                pixels = torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1
                expected = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
            assert (batch["latents"][row] - expected.transpose(0, 1)).abs().mean() < 0.2 * expected.abs().mean()
        assert batch["latents"].shape[2] == 3
        assert batch["active"][row] == (entry.motion_label is not None)
        assert batch["region_mask"][row, 0, :6, 5:11].all()
        assert batch["region_mask"].sum(dim=(1, 2, 3))[row] == 36
        assert 0.3 < batch["strengths"][row, 0] < 2.5  # two of 16 rows, eight times a second, is one


def test_another_first_frame_takes_the_place_of_a_films_own(tmp_path, model, films):
    job = build_setup(film_config(tmp_path, model, films))
    vae = AutoencoderKL.from_pretrained(model / "vae")
    latents = job.batches[clip_step(job, 5)]["latents"][0, :, 0]
    red = torch.tensor([1.0, -1.0, -1.0])[None, :, None, None].expand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(latents, vae.encode(red).latent_dist.mode()[0] * vae.config.scaling_factor)


def test_a_click_that_hides_the_first_frame_always_says_what_is_in_it():
    click = MotionLabel(mask=None, motion_zh="落下", motion_en=None, strength=None)
    entry = SampleRecord(name="a", source=None, text_zh="猫", text_en=None, motion_label=click)
    objective = FinetuneObjectiveConfig(first_frame_masking=0.5, controlled_caption_probability=0.2)
    draws = [
        sample_control_augmentation(entry, np.random.default_rng(seed).random(3), objective) for seed in range(2000)
    ]
    assert all(draw.has_caption for draw in draws if not draw.has_first_frame)
    shown = [draw.has_caption for draw in draws if draw.has_first_frame]
    assert abs(len(shown) / 2000 - 0.5) < 0.05
    assert abs(sum(shown) / len(shown) - 0.2) < 0.05
    assert all(draw.is_chinese for draw in draws)  # the only language it has


def test_time_and_clicks_begin_at_nothing_and_alone_are_trained(tmp_path, model, only_films):
    job = build_setup(film_config(tmp_path, model, only_films, **ALONE))
    task = job.task
    assert task.transformer.config.max_regions == 1
    trained = {name.split(".")[1] for name, p in task.named_parameters() if p.requires_grad}
    assert trained == {"motion_blocks", "motion_conditioner"}
    batch = job.batches[clip_step(job, 3)]
    latents = batch["latents"]
    with torch.no_grad():
        inputs = task._make_model_inputs(batch, latents)
        timestep = torch.full((2,), 500.0)
        film = task._predict(latents, timestep, batch, motion_control=task._make_motion_control(batch, latents))
        frame = task.transformer(latents[:, :, 1], timestep, **inputs, return_dict=False)[0]
    torch.testing.assert_close(film[:, :, 1], frame, atol=1e-5, rtol=1e-4)


def test_one_batch_of_clips_is_learnt_by_heart(tmp_path, model, only_films):
    job = build_setup(film_config(tmp_path, model, only_films, **ALONE))
    losses = overfit(job, steps=60, learning_rate=1e-2)
    assert losses[-1] < 0.9 * losses[0]


def test_run_on_pictures_and_films_ends_in_a_folder_that_draws_films(tmp_path, model, films):
    config = film_config(tmp_path, model, films, name="run")
    assert train_model(config, **UNINTERRUPTED) is Outcome.FINISHED
    assert Image.open(config.run.folder / "samples" / "step-00000006.png").height >= 2 * 16
    pipe = TextToVideoPipeline.from_pretrained(get_export_folder(config))
    assert pipe("小猫", num_frames=3, num_inference_steps=1, output_type="uint8").frames.shape == (1, 3, 16, 16, 3)
    assert ImageToVideoPipeline.from_pretrained(get_export_folder(config)).transformer.config.max_regions == 1


def test_films_for_an_adapter_of_a_model_without_time_are_refused(tmp_path, model, films):
    with pytest.raises(ValueError, match=r"take model\.trainable = 'motion' or 'all'"):
        build_setup(film_config(tmp_path, model, films, model={"trainable": "lora"}))


def test_pictures_would_train_nothing_of_a_films_own_parts_and_are_refused(tmp_path, model, films):
    with pytest.raises(ValueError, match="which would train nothing"):
        build_setup(film_config(tmp_path, model, films, model={"trainable": "motion"}))


@pytest.mark.parametrize("every", [1, 2, 3])
def test_plan_of_films_is_right_to_the_byte(tmp_path, model, only_films, every):
    config = film_config(tmp_path, model, only_films, **ALONE)
    own = dict(DiT.from_config(DiT.load_config(model / "transformer")).config)
    settings = own | {"use_motion_blocks": True, "max_regions": 1}
    put_together, whole = extrapolate_saved_bytes(
        config, model, settings | {"num_layers": 7, "motion_block_interval": every}, (16, 16, 3)
    )
    assert put_together == whole
    found = memory_estimate.estimate_memory(
        config, model, (16, 16, 3), num_processes=1, device=CPU, has_motion_control=True
    )
    assert found.num_trainable == sum(p.numel() for p in build_setup(config).task.parameters() if p.requires_grad)
