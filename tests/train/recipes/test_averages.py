"""Means of the weights of models and of adapters."""

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dianjing.train.recipes.averages import average_adapters, average_models


def test_the_mean_of_two_models_has_the_mean_of_their_weights(tmp_path):
    settings = {"block_out_channels": (8,), "norm_num_groups": 4, "latent_channels": 4}
    models = [AutoencoderKL(**settings) for _ in range(2)]
    for index, model in enumerate(models):
        model.save_pretrained(tmp_path / str(index) / "vae")
    (tmp_path / "mean").mkdir()
    (tmp_path / "mean" / "stale.txt").write_text("of a run before")
    average_models([tmp_path / "0", tmp_path / "1"], tmp_path / "mean")
    mean = load_file(tmp_path / "mean" / "vae" / "diffusion_pytorch_model.safetensors")
    assert AutoencoderKL.from_pretrained(tmp_path / "mean" / "vae").state_dict().keys() == mean.keys()
    first, second = (model.state_dict() for model in models)
    for name, weight in mean.items():
        assert weight.dtype == torch.float16
        torch.testing.assert_close(weight.float(), (first[name] + second[name]) / 2, atol=1e-3, rtol=1e-3)
    assert not (tmp_path / "mean" / "stale.txt").exists()


@pytest.mark.parametrize("rank", [8, 3])
def test_the_mean_of_two_adapters_adds_the_mean_of_what_they_add_as_far_as_its_rank_allows(tmp_path, rank):
    """The adapters have rank 4, on a layer of 8 x 12: the mean is exact in rank 8, and the best of rank 3 otherwise."""
    generator = torch.Generator().manual_seed(0)
    deltas = []
    for index in range(2):
        a, b = torch.zeros(rank, 12), torch.zeros(8, rank)
        used = min(rank, 4)
        a[:used], b[:, :used] = (torch.randn(shape, generator=generator) for shape in ((used, 12), (8, used)))
        deltas.append(b @ a)
        (tmp_path / str(index)).mkdir()
        path = tmp_path / str(index) / "adapter.safetensors"
        save_file({"layer.lora_A.weight": a, "layer.lora_B.weight": b}, path, metadata={"rank": str(rank)})
    average_adapters([tmp_path / "0", tmp_path / "1"], tmp_path / "mean")
    factors = load_file(tmp_path / "mean" / "adapter.safetensors")
    assert factors["layer.lora_A.weight"].shape == (rank, 12)
    expected = (deltas[0] + deltas[1]) / 2
    smallest = torch.linalg.svdvals(expected)[rank:].square().sum().sqrt()
    error = torch.linalg.matrix_norm(factors["layer.lora_B.weight"] @ factors["layer.lora_A.weight"] - expected)
    torch.testing.assert_close(error, smallest, atol=1e-4, rtol=1e-3)
    with safe_open(tmp_path / "mean" / "adapter.safetensors", framework="pt") as file:
        assert file.metadata()["rank"] == str(rank)
