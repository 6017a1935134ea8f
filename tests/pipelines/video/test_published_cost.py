"""Predicted durations of published video models against operations counted by PyTorch in their own classes."""

import dataclasses

import diffusers
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dianjing.pipelines.video.published_cost import (
    EFFICIENCY,
    NUM_TEXT_TOKENS,
    PublishedCostModel,
    PublishedShape,
    VideoWork,
    make_video_work,
    measure_matmul,
)
from dianjing.pipelines.video.published_models import PublishedModel
from dianjing.weights.manifest import read_config_json

WORK = VideoWork(num_frames=33, width=832, height=480, num_steps=1, num_passes=1)
WIDE = {"num_attention_heads": 4, "attention_head_dim": 64}  # so that a video's tokens outweigh the text


@pytest.fixture(scope="module")
def model(published_folder):
    def read(name):
        task = "image-to-video" if "i2v" in name else "text-to-video"
        return PublishedModel.from_folder(name, published_folder(name), task)

    return read


def make_transformer(model, **options):
    """The transformer of a model without weights, in other sizes, and its configuration."""
    config = read_config_json(model.folder / "transformer" / "config.json") | options
    with torch.device("meta"):
        return getattr(diffusers, config["_class_name"]).from_config(config).eval(), config


def run_transformer(transformer, config, latents):
    """Run a transformer on latents and the longest text."""
    with torch.device("meta"):
        texts = torch.zeros(1, NUM_TEXT_TOKENS, config.get("text_dim", 16))
        inputs = {"timestep": torch.ones(1), "encoder_hidden_states": texts}
        if config["_class_name"] == "HunyuanVideoTransformer3DModel":
            inputs |= {"timestep": torch.ones(1, dtype=torch.long), "guidance": torch.ones(1)}
            inputs |= {
                "encoder_attention_mask": torch.ones(1, NUM_TEXT_TOKENS),
                "pooled_projections": torch.zeros(1, 8),
            }
    transformer(hidden_states=latents, **inputs)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hunyuan-t2v", {**WIDE, "rope_axes_dim": (16, 24, 24), "patch_size": 2, "text_embed_dim": 16}),
        ("wan-2.1-t2v", {**WIDE, "ffn_dim": 512, "rope_max_seq_len": 64}),
        ("wan-2.2-ti2v", {**WIDE, "ffn_dim": 512, "rope_max_seq_len": 64}),
    ],
)
def test_operations_are_those_that_pytorch_counts_in_the_transformer(model, monkeypatch, name, options):
    model = model(name)
    transformer, config = make_transformer(model, **options)
    monkeypatch.setattr(
        "dianjing.pipelines.video.published_cost.read_config_json",
        lambda path: config if path.parent.name == "transformer" else read_config_json(path),
    )
    frames = (WORK.num_frames - 1) // model.temporal_factor + 1
    sides = WORK.height // model.spatial_factor, WORK.width // model.spatial_factor
    latents = torch.zeros(1, config["in_channels"], frames, *sides, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run_transformer(transformer, config, latents)
    counted = PublishedShape.from_model(model).count_step_flops(WORK, model)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.1)


@pytest.mark.parametrize("name", ["hunyuan-t2v", "wan-2.2-ti2v"])
def test_operations_of_decoding_are_those_that_pytorch_counts_in_the_autoencoder(model, name):
    model = model(name)
    config = read_config_json(model.folder / "vae" / "config.json")
    with torch.device("meta"):
        vae = getattr(diffusers, config["_class_name"]).from_config(config)
    channels, frames = config.get("latent_channels") or config["z_dim"], 3
    rows, columns = 8, 12
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        vae.decode(torch.zeros(1, channels, frames, rows, columns, device="meta"))
    size = {"num_frames": 9, "width": columns * model.spatial_factor, "height": rows * model.spatial_factor}
    work = dataclasses.replace(WORK, num_steps=0, **size)
    counted = PublishedShape.from_model(model).count_flops(work, model)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.2)  # attention of its middle grows faster


def test_guidance_is_a_second_pass_where_it_is_not_distilled(model):
    size = {"num_frames": 17, "size": (64, 64)}
    assert make_video_work(model("wan-2.1-t2v"), **size).num_passes == 2
    assert make_video_work(model("wan-2.1-t2v"), guidance_scale=1.0, **size).num_passes == 1
    assert make_video_work(model("hunyuan-t2v"), **size).num_passes == 1
    assert make_video_work(model("wan-2.1-i2v"), is_guided=True, **size).num_encodings == 3


def test_a_prediction_is_the_operations_over_the_speed_and_follows_the_runs(model):
    model = model("wan-2.1-t2v")
    cost_model = PublishedCostModel(flops_per_s=1e6)
    predicted_s = cost_model.predict_s(model, WORK)
    assert predicted_s == pytest.approx(PublishedShape.from_model(model).count_flops(WORK, model) / 1e6)
    cost_model.add_run(model, predicted_s=predicted_s, measured_s=2 * predicted_s)
    assert 1.5 * predicted_s < cost_model.predict_s(model, WORK) <= 2 * predicted_s


def test_the_speed_is_that_of_matrix_products():
    times = iter([0.0, 0.001, 10.0, 10.2])  # one product is too quick to be measured, two take 0.2 s
    assert measure_matmul("cpu", torch.float32, clock=lambda: next(times)) == pytest.approx(2 * 2 * 1024**3 / 0.2)
    assert 0 < EFFICIENCY < 1
