"""The adversarial losses of an autoencoder."""

import pytest
import torch

from dianjing.train.config.autoencoder import (
    AutoencoderModelConfig,
    AutoencoderObjectiveConfig,
    AutoencoderSamplesConfig,
)
from dianjing.train.tasks.autoencoder import AutoencoderTask
from dianjing.train.tasks.discriminator import PatchDiscriminator, adversarial_losses


@pytest.fixture
def losses():
    """The losses, a discriminator, and the decoded images that they are of."""
    torch.manual_seed(0)
    discriminator = PatchDiscriminator((8, 16))
    decoded = torch.randn(2, 3, 16, 16, requires_grad=True)
    return adversarial_losses(discriminator, decoded, torch.randn(2, 3, 16, 16)), discriminator, decoded


@pytest.mark.parametrize("name", ["adversarial", "features"])
def test_losses_of_the_decoder_have_no_gradients_for_the_discriminator(losses, name):
    values, discriminator, decoded = losses
    values[name].backward()
    assert decoded.grad is not None
    assert decoded.grad.abs().max() > 0
    assert all(weights.grad is None for weights in discriminator.parameters())


def test_the_loss_of_the_discriminator_has_no_gradients_for_the_decoder(losses):
    values, discriminator, decoded = losses
    values["discriminator"].backward()
    assert decoded.grad is None
    assert all(weights.grad is not None for weights in discriminator.parameters())


def test_a_discriminator_learns_to_classify_images():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator((8, 16))
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-2)
    for _ in range(40):
        real = torch.rand(8, 3, 16, 16).round() * 2 - 1  # of two values; decoded ones of many
        values = adversarial_losses(discriminator, torch.rand(8, 3, 16, 16) * 2 - 1, real)
        optimizer.zero_grad()
        values["discriminator"].backward()
        optimizer.step()
    assert values["discriminator"] < 0.5  # 2 for one that cannot


def test_the_discriminator_is_trained_but_not_exported(tmp_path):
    model = AutoencoderModelConfig(latent_channels=4, block_out_channels=(8, 8), norm_num_groups=4)
    objective = AutoencoderObjectiveConfig(adversarial=0.1, features=1.0, latent_noise=0.3, discriminator_widths=(8, 8))
    images = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8)
    task = AutoencoderTask(model, objective, AutoencoderSamplesConfig(num_images=2), validation_images=images)
    noise = {name: torch.randn(4, *task.latent_shape) for name in ("posterior", "latents")}
    metrics = task.forward({"images": images}, noise | {"levels": torch.rand(4, 1, 1, 1)})
    metrics["loss"].backward()
    assert {"discriminator", "adversarial", "features"} <= set(metrics)
    assert all(weights.grad is not None for weights in task.discriminator.parameters())
    task.export(tmp_path, torch.float32)
    assert [path.name for path in tmp_path.iterdir()] == ["vae"]
