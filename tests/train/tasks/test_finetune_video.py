"""Fine-tuning on videos: reading, clip lengths, motion labels, and training."""

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
from dianjing.train.cli import main
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
VIDEO = {"model": {"trainable": "all"}, "data": {"num_frames": [3, 5], "fps": 8}}
LABELLED = ("0.webp", "1.mp4", "3.gif")


def make_frames(index, *, num_frames):
    """Frames of a white square that falls by two pixels per frame."""
    frames = np.full((num_frames, 16, 16, 3), 40 + 20 * index, np.uint8)
    for step, frame in enumerate(frames):
        frame[2 * step : 2 * step + 6, 5:11] = 255
    return frames


@pytest.fixture
def videos(datasets_file):
    """The images and six videos: with and without motion labels, one too short, one broken."""
    folder = datasets_file.parent / "pictures"
    for index, suffix in enumerate((".webp", ".mp4", ".webp", ".gif", ".mp4", ".mp4")):
        num_frames = {2: 2, 4: 6}.get(index, 4)
        path = folder / f"f{index}{suffix}"
        save_video(make_frames(index, num_frames=num_frames), path, RECORD, fps=8, producer=None)
        path.with_suffix(".txt").write_text(CAPTIONS[index % 4], encoding="utf-8")
        if f"{index}{suffix}" in LABELLED:
            mask = np.zeros((16, 16), np.uint8)
            mask[:6, 5:11] = 255
            Image.fromarray(mask).save(folder / f"f{index}.mask.png")
            (folder / f"f{index}.motion.{'zh' if index else 'en'}.txt").write_text("落下" if index else "sink")
    (folder / "f5.mp4").write_bytes(b"not a video")
    Image.new("RGB", (16, 16), "red").save(folder / "f4.first.png")
    return datasets_file


@pytest.fixture
def only_videos(videos):
    """The videos without the images."""
    for path in (videos.parent / "pictures").glob("[0-9].*"):
        path.unlink()
    return videos


MOTION_ONLY = {"model": {"trainable": "motion"}, "data": {"max_rejected_fraction": 0.5}}


def make_video_config(tmp_path, base, videos, name="run", **changes):
    changes = {**VIDEO, **changes}
    changes["data"] = {**VIDEO["data"], "max_rejected_fraction": 0.3, **changes.get("data", {})}
    return make_finetune_config(tmp_path / name, model=base, datasets_file=videos, changes=changes)


def test_videos_go_to_the_longest_clip_they_fill_and_others_are_rejected_by_name(tmp_path, model, videos):
    config = make_video_config(tmp_path, model, videos)
    schedule = build_setup(config).batches.schedule
    names = {shape: sorted(record.name for record in found) for shape, found in schedule.records.items()}
    assert names[16, 16, 3] == ["f0.webp", "f0.webp", "f1.mp4", "f1.mp4", "f3.gif", "f3.gif"]
    assert names[16, 16, 5] == ["f4.mp4", "f4.mp4"]
    assert len(names[16, 16]) == 6
    report = json.loads((config.run.folder / "data.json").read_text(encoding="utf-8"))
    reasons = {name.rpartition(": ")[2]: why for name, why in report["rejected"].items()}
    assert "the shortest clip has 3" in reasons["f2.webp"]
    assert "cannot be read as a video" in reasons["f5.mp4"]
    clips = {(record.name, record.start_frame): record for record in schedule.records[16, 16, 3]}
    assert {start for _, start in clips} == {0, 1}  # all four frames are used
    assert clips["f0.webp", 0].motion_label is not None
    assert clips["f0.webp", 1].motion_label is None  # the mask belongs to the first frame
    assert schedule.bucket_kinds == {"image", "clip"}


def test_a_dry_run_names_wrong_masks(tmp_path, model, videos, capsys):
    Image.new("L", (8, 16), 255).save(videos.parent / "pictures" / "f0.mask.png")
    Image.new("L", (16, 16)).save(videos.parent / "pictures" / "f1.mask.png")
    settings = {"run.folder": tmp_path / "run", "model.name": model, "model.trainable": "all", "data.size_px": 16}
    settings |= {"data.datasets_file": videos, "data.cache_folder": tmp_path / "cache", "data.num_frames": "[3, 5]"}
    settings |= {"data.max_rejected_fraction": 0.5, "objective.prior_preservation": 0}
    assert main([str(tmp_path / "run.toml"), "--init"]) == 0
    overrides = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    assert main([str(tmp_path / "run.toml"), *overrides, "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "the mask of f0.webp has 8 x 16 px, but its image has 16 x 16 px" in output
    assert "the mask of f1.mp4 is empty" in output
    assert not (tmp_path / "cache").exists()


def test_videos_are_rejected_by_name_without_clip_lengths(tmp_path, model, videos):
    config = make_video_config(
        tmp_path, model, videos, data={"num_frames": [], "max_rejected_fraction": 0.5}, model={"trainable": "lora"}
    )
    schedule = build_setup(config).batches.schedule
    assert all(len(shape) == 2 for shape in schedule.records)
    report = json.loads((config.run.folder / "data.json").read_text(encoding="utf-8"))["rejected"]
    assert sum("lists no clip lengths" in why for why in report.values()) == 3  # animated images count as images


def find_clip_step(setup, num_frames):
    schedule = setup.batches.schedule
    return next(step for step in range(schedule.steps_per_epoch) if schedule.bucket_at(step).num_frames == num_frames)


def test_batches_hold_the_latents_of_each_frame_and_the_motion_label(tmp_path, model, videos):
    setup = build_setup(make_video_config(tmp_path, model, videos, objective={"first_frame_masking": 0}))
    vae = AutoencoderKL.from_pretrained(model / "vae")
    step = find_clip_step(setup, 3)
    batch = setup.batches[step]
    records = [setup.batches.schedule.get_sample(step, row).record for row in range(2)]
    for row, record in enumerate(records):
        frames = make_frames(int(record.name[1]), num_frames=4)[record.start_frame :][:3]
        if record.name.endswith(".webp"):  # the other formats are lossy
            with torch.no_grad():
                pixels = torch.from_numpy(frames).permute(0, 3, 1, 2) / 127.5 - 1
                expected = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
            assert (batch["latents"][row] - expected.transpose(0, 1)).abs().mean() < 0.2 * expected.abs().mean()
        assert batch["latents"].shape[2] == 3
        assert batch["active"][row] == (record.motion_label is not None)
        if record.motion_label is None:
            assert not batch["region_mask"][row].any()
            continue
        assert batch["region_mask"][row, 0, :6, 5:11].all()
        assert batch["region_mask"].sum(dim=(1, 2, 3))[row] == 36
        assert 0.3 < batch["strengths"][row, 0] < 2.5  # two of 16 rows, eight times a second, is one


def test_a_first_frame_file_replaces_that_of_the_video(tmp_path, model, videos):
    setup = build_setup(make_video_config(tmp_path, model, videos))
    vae = AutoencoderKL.from_pretrained(model / "vae")
    step = find_clip_step(setup, 5)
    starts = [setup.batches.schedule.get_sample(step, row).record.start_frame for row in range(2)]
    latents = setup.batches[step]["latents"][starts.index(0), :, 0]
    red = torch.tensor([1.0, -1.0, -1.0])[None, :, None, None].expand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(latents, vae.encode(red).latent_dist.mode()[0] * vae.config.scaling_factor)


def test_a_hidden_first_frame_always_comes_with_a_caption():
    label = MotionLabel(mask=None, motion_zh="落下", motion_en=None, strength=None)
    record = SampleRecord(name="a", source=None, text_zh="猫", text_en=None, motion_label=label)
    objective = FinetuneObjectiveConfig(first_frame_masking=0.5, controlled_caption_probability=0.2)
    draws = [
        sample_control_augmentation(record, np.random.default_rng(seed).random(3), objective) for seed in range(2000)
    ]
    assert all(draw.has_caption for draw in draws if not draw.has_first_frame)
    captions = [draw.has_caption for draw in draws if draw.has_first_frame]
    assert abs(len(captions) / 2000 - 0.5) < 0.05
    assert abs(sum(captions) / len(captions) - 0.2) < 0.05
    assert all(draw.is_chinese for draw in draws)  # the only language it has


def test_motion_blocks_start_as_identity_and_alone_are_trained(tmp_path, model, only_videos):
    setup = build_setup(make_video_config(tmp_path, model, only_videos, **MOTION_ONLY))
    task = setup.task
    assert task.transformer.config.max_regions == 1
    trained = {name.split(".")[1] for name, p in task.named_parameters() if p.requires_grad}
    assert trained == {"motion_blocks", "motion_conditioner"}
    batch = setup.batches[find_clip_step(setup, 3)]
    latents = batch["latents"]
    with torch.no_grad():
        inputs = task._make_model_inputs(batch, latents)
        timestep = torch.full((2,), 500.0)
        video = task._predict(latents, timestep, batch, motion_control=task._make_motion_control(batch, latents))
        frame = task.transformer(latents[:, :, 1], timestep, **inputs, return_dict=False)[0]
    torch.testing.assert_close(video[:, :, 1], frame, atol=1e-5, rtol=1e-4)


def test_one_batch_of_clips_is_overfitted(tmp_path, model, only_videos):
    setup = build_setup(make_video_config(tmp_path, model, only_videos, **MOTION_ONLY))
    losses = overfit(setup, steps=60, learning_rate=1e-2)
    assert losses[-1] < 0.9 * losses[0]


def test_run_on_images_and_videos_exports_a_video_model(tmp_path, model, videos):
    config = make_video_config(tmp_path, model, videos, name="run")
    assert train_model(config, **UNINTERRUPTED) is Outcome.FINISHED
    assert Image.open(config.run.folder / "samples" / "step-00000006.png").height >= 2 * 16
    pipe = TextToVideoPipeline.from_pretrained(get_export_folder(config))
    assert pipe("小猫", num_frames=3, num_inference_steps=1, output_type="uint8").frames.shape == (1, 3, 16, 16, 3)
    assert ImageToVideoPipeline.from_pretrained(get_export_folder(config)).transformer.config.max_regions == 1


def test_videos_for_an_adapter_of_an_image_model_are_refused(tmp_path, model, videos):
    with pytest.raises(ValueError, match=r"set model\.trainable = 'motion' or 'all'"):
        build_setup(make_video_config(tmp_path, model, videos, model={"trainable": "lora"}))


def test_images_for_motion_blocks_alone_are_refused(tmp_path, model, videos):
    with pytest.raises(ValueError, match="would train nothing"):
        build_setup(make_video_config(tmp_path, model, videos, model={"trainable": "motion"}))


@pytest.mark.parametrize("every", [1, 2, 3])
def test_memory_of_videos_is_extrapolated_to_the_byte(tmp_path, model, only_videos, every):
    config = make_video_config(tmp_path, model, only_videos, **MOTION_ONLY)
    config_of_model = DiT.from_config(DiT.load_config(model / "transformer")).config
    own = {name: value for name, value in config_of_model.items() if not name.startswith("_")}
    settings = own | {"use_motion_blocks": True, "max_regions": 1}
    extrapolated, measured = extrapolate_saved_bytes(
        config, model, settings | {"num_layers": 7, "motion_block_interval": every}, (16, 16, 3)
    )
    assert extrapolated == measured
    found = memory_estimate.estimate_memory(
        config, model, (16, 16, 3), num_processes=1, device=CPU, has_motion_control=True
    )
    assert found.num_trainable == sum(p.numel() for p in build_setup(config).task.parameters() if p.requires_grad)
