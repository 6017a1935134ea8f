"""Training on clips and motion control, tiny, from an image model."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from dianjing.dit import DiT
from dianjing.train.config.run_file import parse_run_config
from dianjing.train.config.text_to_image import TextToImageObjectiveConfig
from dianjing.train.data.captions import TEXT_KEYS, BilingualCaptionEncoder
from dianjing.train.data.motion_control import MotionControlSampler, encode_motion_control
from dianjing.train.run import train_model
from dianjing.train.tasks.registry import TASKS
from dianjing.train.trainer.loop import Outcome
from tests.train.tiny import TinySource, make_batch, make_text_to_image_config, make_video_config, never, overfit_batch

MOTION_PREFIXES = ("transformer.motion_blocks.", "transformer.motion_conditioner.")


@pytest.fixture(scope="module")
def image_model(tmp_path_factory, vae, tokenizers):
    """The export of a tiny image run, with its autoencoder inside, which tests only read."""
    folder = tmp_path_factory.mktemp("image_model")
    config = make_text_to_image_config(folder, vae=vae, tokenizers=tokenizers, total_steps=2)
    train_model(config, TinySource(), resume="auto", should_stop=never)
    return folder / "export"


def test_video_run_exports_a_transformer_for_images_and_videos(tmp_path, image_model):
    config = make_video_config(
        tmp_path / "video", start_from=image_model, vae=image_model / "vae", export_dtype="float32"
    )
    assert train_model(config, TinySource(), resume="auto", should_stop=never) is Outcome.FINISHED
    model = DiT.from_pretrained(tmp_path / "video" / "export" / "transformer")
    assert model.config.use_motion_blocks
    assert model.config.max_regions == 2
    weights_out = [block.attn1.to_out[0].weight for block in model.motion_blocks]
    assert all(weight.abs().max() > 0 for weight in weights_out)
    assert model.motion_conditioner.first_frame_patch.weight.abs().max() > 0
    assert model.motion_conditioner.flow_field.text_proj.weight.abs().max() > 0


def test_video_run_keeps_the_ids_of_known_words_and_adds_new_ones(tmp_path, image_model):
    config = make_video_config(tmp_path / "video", start_from=image_model, vae=image_model / "vae", total_steps=1)
    train_model(config, TinySource(), resume="auto", should_stop=never)
    for name in ("tokenizer", "tokenizer_2"):
        before = AutoTokenizer.from_pretrained(image_model / name)
        after = AutoTokenizer.from_pretrained(tmp_path / "video" / "export" / name)
        caption = "草地上的一只小猫 a small cat on the grass"
        assert after(caption).input_ids == before(caption).input_ids
        for text in ("落下", "sinking", "sink"):
            assert after.unk_token_id not in after(text).input_ids
        assert max(after("a sinking balloon").input_ids) >= len(before)


def test_video_run_resumes_bit_for_bit(tmp_path, image_model):
    runs = {}
    for name, stops in (("whole", []), ("stopped", [False, True])):
        config = make_video_config(tmp_path / name, start_from=image_model, vae=image_model / "vae", total_steps=4)
        answers = iter([*stops, *[False] * 9])
        while (
            train_model(config, TinySource(), resume="auto", should_stop=lambda a=answers: next(a))
            is Outcome.INTERRUPTED
        ):
            pass
        runs[name] = (tmp_path / name / "export" / "transformer").glob("*.safetensors").__next__().read_bytes()
    assert runs["whole"] == runs["stopped"]


def test_training_motion_alone_leaves_the_image_model_unchanged(tmp_path, image_model):
    config = make_video_config(
        tmp_path / "video", start_from=image_model, vae=image_model / "vae", export_dtype="float32"
    )
    tree = config.model_dump()
    tree["model"]["trainable"] = "motion"
    tree["data"]["buckets"] = tree["data"]["buckets"][1:]
    train_model(parse_run_config(tree), TinySource(), resume="auto", should_stop=never)
    before = DiT.from_pretrained(image_model / "transformer", dtype=torch.float32).state_dict()
    after = DiT.from_pretrained(tmp_path / "video" / "export" / "transformer").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(weight.abs().max() > 0 for name, weight in after.items() if name.endswith("attn1.to_out.0.weight"))


def test_training_images_alone_leaves_motion_and_text_encoders_unchanged(tmp_path, image_model):
    tree = make_video_config(
        tmp_path / "video", start_from=image_model, vae=image_model / "vae", export_dtype="float32"
    ).model_dump()
    tree["model"]["trainable"] = "image"
    with pytest.raises(ValueError, match="buckets of kind 'image' only"):
        parse_run_config(tree)
    tree["data"]["buckets"] = tree["data"]["buckets"][:1]
    weights = {}
    for steps in (1, 3):
        tree["run"] |= {"folder": tmp_path / str(steps), "total_steps": steps}
        train_model(parse_run_config(tree), TinySource(), resume="auto", should_stop=never)
        export = tmp_path / str(steps) / "export"
        weights[steps] = {
            f"{part}.{name}": tensor
            for part in ("transformer", "text_encoder", "text_encoder_2")
            for file in (export / part).glob("*.safetensors")
            for name, tensor in load_file(file).items()
        }
    changed = {name for name in weights[1] if not torch.equal(weights[1][name], weights[3][name])}
    assert "transformer.blocks.0.attn1.to_q.weight" in changed
    assert all(name.startswith("transformer.") and not name.startswith(MOTION_PREFIXES) for name in changed)


@torch.no_grad()
def test_a_new_video_model_predicts_each_frame_as_the_image_model_does(tmp_path, image_model):
    config = make_video_config(tmp_path / "video", start_from=image_model, vae=image_model / "vae")
    task, captions = TASKS["text_to_image"].make_task(config, TinySource(), _SingleProcess())
    clips = make_clips(2)
    batch = captions(clips, np.full((2, 2), 0.9), kind="controlled")
    latents = task.encode_images(torch.from_numpy(np.stack([clip.frames for clip in clips])))
    text, timestep = [batch[key] for key in TEXT_KEYS], torch.tensor([500, 200])
    images = torch.from_numpy(np.stack([clip.frames[0] for clip in clips]))
    motion_control = task._encode_motion_control(batch, images, latents[:, :, 0], num_frames=latents.shape[2])
    video = task.predict(latents, timestep, text, motion_control)
    frames = [task.predict(frame, timestep, text) for frame in latents.unbind(2)]
    torch.testing.assert_close(video, torch.stack(frames, dim=2), rtol=1e-4, atol=1e-5)


def test_training_the_flow_field_changes_nothing_else(tmp_path, image_model):
    tree = make_video_config(
        tmp_path / "video", start_from=image_model, vae=image_model / "vae", export_dtype="float32"
    ).model_dump()
    tree["model"]["trainable"] = "flow_field"
    with pytest.raises(ValueError, match="buckets of kind 'controlled' only"):
        parse_run_config(tree)
    tree["data"]["buckets"] = tree["data"]["buckets"][2:]
    weights = {}
    for steps in (1, 8):
        tree["run"] |= {"folder": tmp_path / str(steps), "total_steps": steps}
        train_model(parse_run_config(tree), TinySource(), resume="auto", should_stop=never)
        weights[steps] = DiT.from_pretrained(tmp_path / str(steps) / "export" / "transformer").state_dict()
    changed = {name for name in weights[1] if not torch.equal(weights[1][name], weights[8][name])}
    assert changed
    assert all(name.startswith("motion_conditioner.flow_field.") for name in changed)


def test_one_batch_of_motion_control_is_overfitted(tmp_path, image_model):
    config = make_video_config(tmp_path / "video", start_from=image_model, vae=image_model / "vae")
    torch.manual_seed(0)
    task, captions = TASKS["text_to_image"].make_task(config, TinySource(), _SingleProcess())
    clips = [TinySource().get_controlled_clip(0, position, num_frames=3, fps=8.0) for position in range(4)]
    batch = {"images": torch.from_numpy(np.stack([clip.frames for clip in clips]))}
    batch |= captions(clips, np.random.default_rng(0).random((4, 2)), kind="controlled")
    first, last = overfit_batch(task, batch, steps=120, learning_rate=3e-3)
    assert last < first / 2


class _SingleProcess:
    def main_process_first(self):
        return nullcontext()


def make_sampler(image_model, **objective) -> MotionControlSampler:
    tokenizer = AutoTokenizer.from_pretrained(image_model / "tokenizer")
    return MotionControlSampler(tokenizer, TextToImageObjectiveConfig(**objective), max_regions=3, phrase_len=6)


def make_clips(count: int):
    return [TinySource().get_controlled_clip(0, position, num_frames=3, fps=8.0) for position in range(count)]


def test_only_moving_objects_get_a_region_and_an_active_phrase(image_model):
    clips = make_clips(3)
    _, batch = make_sampler(image_model, caption_dropout=0)(clips, np.random.default_rng(0).random((3, 2)))
    assert batch["active"].tolist() == [[1, 0, 0]] * 3
    assert batch["strengths"].tolist() == [[0.5, 0, 0]] * 3
    np.testing.assert_array_equal(batch["region_masks"][:, 0], np.stack([clip.masks[0, 0] for clip in clips]))
    assert not batch["region_masks"][:, 1:].any()


def test_first_frames_are_hidden_at_the_configured_rate_and_then_have_a_caption(image_model):
    clips = make_clips(400)
    captions, batch = make_sampler(
        image_model, first_frame_masking=0.7, caption_dropout=0.1, controlled_caption_probability=0
    )(clips, np.random.default_rng(0).random((400, 2)))
    hidden, dropped = batch["has_first_frame"] == 0, ~batch["active"].bool().any(dim=1)
    assert abs(hidden.float().mean() - 0.7) < 0.07
    assert abs(dropped.float().mean() - 0.1) < 0.05
    has_caption = torch.tensor([caption != "" for caption in captions])
    assert torch.equal(has_caption, hidden & ~dropped)


def test_masks_hold_the_covered_fraction_of_each_latent_cell(image_model):
    _, batch = make_sampler(image_model, caption_dropout=0, first_frame_masking=0)(make_clips(2), np.zeros((2, 2)))
    bert = torch.nn.Embedding(100, 8)

    def encoder(input_ids, attention_mask):
        return type("Out", (), {"last_hidden_state": bert(input_ids)})

    motion_control = encode_motion_control(encoder, torch.ones(2, 5, 4, 4), list(batch.values()))
    assert motion_control.masks.shape == (2, 3, 4, 4)
    assert motion_control.masks[0, 0].unique().tolist() == [0, 1]
    assert motion_control.phrase_embeds.shape == (2, 3, 6, 8)
    assert motion_control.phrase_mask[:, 0].any()
    assert not motion_control.phrase_mask[:, 1:].any()


def test_motion_control_for_an_image_model_is_refused(tmp_path):
    tree = make_text_to_image_config(tmp_path, vae=tmp_path, tokenizers=tmp_path).model_dump()
    tree["data"]["buckets"] = [{"kind": "controlled", "num_frames": 4}]
    with pytest.raises(ValueError, match="use_motion_blocks"):
        parse_run_config(tree)
    tree["data"]["buckets"] = [{"kind": "clip"}]
    with pytest.raises(ValueError, match="num_frames = 1"):
        parse_run_config(tree)


def test_captions_of_controlled_clips_come_with_their_tensors(image_model, tmp_path):
    config = make_video_config(tmp_path, start_from=image_model, vae=image_model)
    captions = BilingualCaptionEncoder(config.model.model_copy(update={"tokenizers": image_model}), config.objective)
    batch = captions(make_clips(2), np.zeros((2, 2)), kind="controlled")
    assert {"ids", "mask_t5", "region_masks", "has_first_frame"} <= set(batch)
    assert "active" not in make_batch(2, captions)


def test_captioned_clips_have_no_regions_and_some_have_a_first_frame(image_model):
    draws = np.random.default_rng(0).random((300, 2))
    batch = make_sampler(image_model, clip_first_frame_probability=0.3).make_empty(draws, size_px=16)
    assert not batch["active"].any()
    assert not batch["region_masks"].any()
    assert abs(batch["has_first_frame"].mean() - 0.3) < 0.08
