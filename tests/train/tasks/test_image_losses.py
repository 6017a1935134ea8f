"""Distances of images, and the weights of their objects."""

import pytest
import torch
from skimage.metrics import structural_similarity

from dianjing.train.tasks.image_losses import edge_l1_loss, psnr, ssim_loss, weigh_objects, weighted_mean


def test_equal_images_have_no_edge_loss():
    a = torch.rand(2, 3, 16, 16)
    assert edge_l1_loss(a, a, num_scales=3) == 0
    assert edge_l1_loss(a, a + 0.5, num_scales=3) < 1e-6  # a flat difference is no edge
    assert edge_l1_loss(a, a.flip(-1), num_scales=3) > 0.1


def test_ssim_is_that_of_scikit_image():
    a = torch.rand(1, 3, 32, 32) * 2 - 1
    b = (a + 0.3 * torch.randn(1, 3, 32, 32)).clamp(-1, 1)
    images = [(each[0] + 1).double().numpy() for each in (a, b)]
    expected = structural_similarity(*images, channel_axis=0, data_range=2, use_sample_covariance=False)
    assert float(1 - ssim_loss(a, b, num_scales=1)) == pytest.approx(expected, abs=1e-5)
    assert float(ssim_loss(a, a, num_scales=5)) == pytest.approx(0, abs=1e-6)  # the last scale is of 2 x 2 pixels


def test_ssim_counts_a_missing_object_by_its_contrast():
    background, is_object = torch.full((1, 3, 64, 64), 0.6), torch.zeros(64, 64, dtype=torch.bool)
    is_object[24:40, 24:40] = True
    pale, dark = (torch.where(is_object, each, background) for each in (0.8, -0.6))
    losses = [ssim_loss(background, each, num_scales=3) for each in (pale, dark)]
    errors = [(background - each).square().mean() for each in (pale, dark)]
    assert losses[0] > 0.5 * losses[1]
    assert errors[0] < 0.05 * errors[1]


def test_psnr_of_one_grey_level_is_that_of_eight_bits():
    a = torch.zeros(1, 3, 4, 4)
    assert psnr(a, a + 2 / 255).item() == pytest.approx(48.13, abs=0.01)


def make_mask(*sides, size_px=64):
    masks = torch.zeros(len(sides), size_px, size_px, dtype=torch.bool)
    for mask, side in zip(masks, sides, strict=True):
        mask[8 : 8 + side, 8 : 8 + side] = True
    return masks


def test_objects_of_any_size_have_their_share_of_the_loss():
    masks = make_mask(4, 16, 40)
    weights = weigh_objects(masks, share=0.6, margin_px=0)
    torch.testing.assert_close(weights.mean(dim=(1, 2, 3)), torch.ones(3))
    on_objects = (weights[:, 0] * masks).mean(dim=(1, 2))
    torch.testing.assert_close(on_objects, torch.full((3,), 0.6))


def test_the_margin_belongs_to_an_object():
    weights = weigh_objects(make_mask(16), share=0.5, margin_px=2)[0, 0]
    assert weights[6, 6] == weights[8, 8] == weights[25, 25]
    assert weights[5, 6] == weights[26, 25] == weights[0, 0] < weights[6, 6]


def test_images_without_objects_or_without_a_background_have_equal_weights():
    assert (weigh_objects(make_mask(0), share=0.5, margin_px=2) == 1).all()
    assert (weigh_objects(torch.ones(1, 64, 64, dtype=torch.bool), share=0.5, margin_px=2) == 1).all()


@pytest.mark.parametrize("loss", [edge_l1_loss, ssim_loss])
def test_errors_on_objects_count_by_their_weight(loss):
    """An error on an object of a twentieth of the image has most of the loss, beside an equal one elsewhere."""
    torch.manual_seed(0)
    image, noise = torch.zeros(1, 3, 64, 64), 0.3 * torch.randn(1, 3, 14, 14)
    on_object, elsewhere = image.clone(), image.clone()
    on_object[..., 8:22, 8:22], elsewhere[..., 40:54, 40:54] = noise, noise
    weights = weigh_objects(make_mask(14), share=0.5, margin_px=4)
    unweighted = [loss(each, image, num_scales=3) for each in (on_object, elsewhere)]
    torch.testing.assert_close(*unweighted, rtol=0.2, atol=0)
    weighted = [loss(each, image, num_scales=3, weights=weights) for each in (on_object, elsewhere)]
    assert weighted[0] > 4 * weighted[1]


def test_equal_weights_change_nothing():
    a, b = 2 * torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 1
    ones = torch.ones(2, 1, 32, 32)
    for loss in (edge_l1_loss, ssim_loss):
        torch.testing.assert_close(loss(a, b, num_scales=3), loss(a, b, num_scales=3, weights=ones))
    torch.testing.assert_close(weighted_mean(a, None), weighted_mean(a, ones))
