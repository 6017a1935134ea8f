"""Classifier-free guidance; predictions are float32."""

from torch import Tensor


def guide(negative: Tensor, positive: Tensor, *, scale: float, rescale: float = 0.0) -> Tensor:
    """Push the prediction away from the negative prompt.

    Source: Ho & Salimans 2022 (arXiv 2207.12598), Eq. 6, with w + 1 as the scale.
    """
    guided = negative + scale * (positive - negative)
    return rescale_to(guided, positive, amount=rescale) if rescale else guided


def rescale_to(guided: Tensor, positive: Tensor, *, amount: float) -> Tensor:
    """Give the guided prediction part of its old standard deviation back; large scales overexpose without.

    Source: Lin et al. 2024 (arXiv 2305.08891), Eqs. 15 and 16.
    """
    axes = tuple(range(1, guided.ndim))
    rescaled = guided * (positive.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
    return amount * rescaled + (1 - amount) * guided
