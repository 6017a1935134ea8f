"""DiT against diffusers' HunyuanDiT2DModel with the same weights."""

import copy
import random

import pytest
import torch
from diffusers import HunyuanDiT2DModel
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid

from dianjing import DiT

TOLERANCE = 1e-4  # of the output's largest value, float32
PUBLISHED = {  # the shape of every published Hunyuan-DiT, much narrower
    "num_attention_heads": 4,
    "attention_head_dim": 88,
    "hidden_size": 352,
    "in_channels": 4,
    "patch_size": 2,
    "num_layers": 4,
    "mlp_ratio": 4.3637,
    "cross_attention_dim": 32,
    "cross_attention_dim_t5": 64,
    "pooled_projection_dim": 32,
    "sample_size": 16,
    "use_style_cond_and_image_meta_size": False,
}


def random_config(seed):
    rng = random.Random(seed)
    heads, head_dim = rng.choice([1, 2, 3, 5, 7]), rng.choice([8, 12, 16, 88])
    return {
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "hidden_size": heads * head_dim,
        "in_channels": rng.choice([3, 4, 8]),
        "patch_size": rng.choice([1, 2, 4]),
        "num_layers": rng.choice([1, 2, 4, 6, 8]),
        "mlp_ratio": rng.choice([2.0, 4.0, 4.3637]),
        "learn_sigma": seed % 2 == 0,
        "cross_attention_dim": rng.choice([8, 24]),
        "cross_attention_dim_t5": rng.choice([16, 32]),
        "pooled_projection_dim": rng.choice([8, 12]),
        "text_len": rng.choice([5, 7]),
        "text_len_t5": rng.choice([6, 9, 12]),
        "use_style_cond_and_image_meta_size": seed // 2 % 2 == 0,
        "sample_size": 16,
    }


def make_pair(config, seed=0):
    """Make their model and ours with the same random weights."""
    torch.manual_seed(seed)
    theirs, ours = HunyuanDiT2DModel(**config).eval(), DiT(**config).eval()
    weights = {
        name: 0.1 * torch.randn_like(value) + ("norm" in name and name.endswith("weight") and value.ndim == 1)
        for name, value in theirs.state_dict().items()
    }
    theirs.load_state_dict(weights)
    ours.load_state_dict(weights)
    return theirs, ours


def make_inputs(config, *, batch_size, rows, columns, residuals=False):
    """Make keyword arguments for their forward, with their positions of that grid."""
    patch = config["patch_size"]
    text_len, text_len_t5 = config.get("text_len", 77), config.get("text_len_t5", 256)
    base = 64 // patch
    span = get_resize_crop_region_for_grid((rows, columns), base)
    inputs = {
        "hidden_states": torch.randn(batch_size, config["in_channels"], rows * patch, columns * patch),
        "timestep": 1000 * torch.rand(batch_size),
        "encoder_hidden_states": torch.randn(batch_size, text_len, config["cross_attention_dim"]),
        "text_embedding_mask": (torch.rand(batch_size, text_len) < 0.7).long(),
        "encoder_hidden_states_t5": torch.randn(batch_size, text_len_t5, config["cross_attention_dim_t5"]),
        "text_embedding_mask_t5": (torch.rand(batch_size, text_len_t5) < 0.7).long(),
        "image_meta_size": 1000 * torch.rand(batch_size, 6),
        "style": torch.zeros(batch_size, dtype=torch.long),
        "image_rotary_emb": get_2d_rotary_pos_embed(config["attention_head_dim"], span, (rows, columns)),
    }
    if residuals:
        shape = (batch_size, rows * columns, config["hidden_size"])
        inputs["controlnet_block_samples"] = [torch.randn(shape) for _ in range((config["num_layers"] - 1) // 2)]
    return inputs


def call(model, inputs):
    inputs = dict(inputs)
    if "controlnet_block_samples" in inputs:  # their forward empties the list
        inputs["controlnet_block_samples"] = list(inputs["controlnet_block_samples"])
    return model(**inputs).sample


def largest_error(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("seed", range(20))
@torch.no_grad()
def test_random_configurations_agree_in_one_call_and_precomputed(seed):
    config = random_config(seed)
    theirs, ours = make_pair(config, seed)
    inputs = make_inputs(config, batch_size=1 + seed % 3, rows=8, columns=8, residuals=seed % 3 == 0)
    expected = call(theirs, inputs)
    assert largest_error(call(ours, inputs), expected) <= TOLERANCE

    inputs.pop("image_rotary_emb")  # on a square grid their positions are right, and equal ours
    assert largest_error(call(ours, inputs), expected) <= TOLERANCE

    latents, timesteps = inputs.pop("hidden_states"), inputs.pop("timestep")
    residuals = inputs.pop("controlnet_block_samples", None)
    conditioning = ours.compute_conditioning(timesteps, **inputs, latent_size=tuple(latents.shape[-2:]))
    for row in range(len(latents)):  # each sample has a timestep of its own, which here is a step of the schedule
        sample = ours(
            latents[row : row + 1],
            conditioning=conditioning.select_step(row).index_batch([row]),
            controlnet_block_samples=residuals and [residual[row : row + 1] for residual in residuals],
        ).sample
        assert largest_error(sample, expected[row : row + 1]) <= TOLERANCE


@pytest.mark.parametrize(("chunk_size", "dim"), [(None, 0), (2, 0), (10, 1)])
@torch.no_grad()
def test_feed_forward_in_chunks_agrees(chunk_size, dim):
    pair = make_pair(PUBLISHED)
    inputs = make_inputs(PUBLISHED, batch_size=2, rows=8, columns=8)
    for model in pair:
        model.enable_forward_chunking(chunk_size, dim=dim)
    theirs, ours = (call(model, inputs) for model in pair)
    assert largest_error(ours, theirs) <= TOLERANCE
    pair[1].disable_forward_chunking()
    assert largest_error(call(pair[1], inputs), ours) <= 1e-6


@torch.no_grad()
def test_a_published_folder_loads_as_it_is(tmp_path):
    theirs, _ = make_pair(PUBLISHED)
    theirs.save_pretrained(tmp_path)
    ours = DiT.from_pretrained(tmp_path)
    assert {key: ours.config[key] for key in PUBLISHED} == PUBLISHED
    assert set(ours.state_dict()) == set(theirs.state_dict())
    inputs = make_inputs(PUBLISHED, batch_size=2, rows=8, columns=8)
    assert largest_error(call(ours, inputs), call(theirs, inputs)) <= TOLERANCE


@torch.no_grad()
def test_a_folder_saved_here_loads_in_diffusers(tmp_path):
    _, ours = make_pair(PUBLISHED)
    ours.save_pretrained(tmp_path)
    theirs = HunyuanDiT2DModel.from_pretrained(tmp_path)
    inputs = make_inputs(PUBLISHED, batch_size=1, rows=8, columns=8)
    assert largest_error(call(ours, inputs), call(theirs, inputs)) <= TOLERANCE


def test_gradients_agree_with_theirs():
    config = random_config(3)
    pair = make_pair(config)
    inputs = make_inputs(config, batch_size=2, rows=4, columns=4)
    for model in pair:
        call(model, inputs).square().mean().backward()
    theirs, ours = (dict(model.named_parameters()) for model in pair)
    scale = max(float(parameter.grad.abs().max()) for parameter in theirs.values())
    for name, parameter in theirs.items():
        assert float((ours[name].grad - parameter.grad).abs().max()) <= TOLERANCE * scale, name


@torch.no_grad()
def test_in_bfloat16_ours_is_as_near_to_float32_as_theirs():
    theirs, ours = make_pair(PUBLISHED)
    exact = copy.deepcopy(theirs)
    theirs, ours = theirs.bfloat16(), ours.bfloat16()
    errors = {"theirs": 0.0, "ours": 0.0}
    for seed in range(3):
        torch.manual_seed(seed)
        inputs = make_inputs(PUBLISHED, batch_size=2, rows=8, columns=8)
        inputs["timestep"] = torch.tensor([256.0, 64.0])  # bfloat16 holds these exactly
        expected = call(exact, inputs)
        half = {
            name: value.bfloat16() if torch.is_tensor(value) and value.is_floating_point() else value
            for name, value in inputs.items()
        }
        errors["theirs"] += float((call(theirs, half) - expected).norm())
        errors["ours"] += float((call(ours, half) - expected).norm())
    assert errors["ours"] <= 1.02 * errors["theirs"]


@pytest.mark.parametrize(("rows", "columns"), [(48, 80), (60, 80)])
def test_on_other_than_square_grids_their_positions_are_off_and_ours_are_not(rows, columns):
    span = get_resize_crop_region_for_grid((rows, columns), 32)
    start, stop = span[0][0], span[1][0]
    frequencies = 10_000.0 ** -(torch.arange(0, 44, 2, dtype=torch.float64) / 44)
    grid = start + (stop - start) * torch.arange(rows, dtype=torch.float64) / rows  # excludes the stop
    expected = torch.outer(grid, frequencies).cos().repeat_interleave(columns, dim=0)
    theirs = get_2d_rotary_pos_embed(88, span, (rows, columns))[0][:, 44::2]
    ours = DiT(**PUBLISHED).get_rotary_table(rows, columns, device=torch.device("cpu"))[:, 22:, 0]
    assert float((ours - expected).abs().max()) < 1e-5
    assert float((theirs - expected).abs().max()) > 0.05


@pytest.mark.parametrize("with_size", [True, False])
def test_it_replaces_their_model_in_their_pipeline(make_hunyuan, with_size, tmp_path):
    pipe = make_hunyuan(with_size=with_size)
    pipe.set_progress_bar_config(disable=True)

    def generate():
        return pipe(
            "草地上的一只小猫",
            negative_prompt="a dog",
            height=128,
            width=128,
            num_inference_steps=3,
            use_resolution_binning=False,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        ).images

    expected = generate()
    pipe.transformer.save_pretrained(tmp_path)
    pipe.transformer = DiT.from_pretrained(tmp_path)
    assert largest_error(generate(), expected) <= TOLERANCE
