"""How far an answer is from the reference, both read in float32."""

from torch import Tensor


def max_abs(answer: Tensor, reference: Tensor) -> float:
    """Largest difference, relative to the largest value of the reference."""
    answer, reference = answer.detach().float(), reference.detach().float()
    return float((answer - reference).abs().max() / reference.abs().max())


def relative_l2(answer: Tensor, reference: Tensor) -> float:
    """|answer - reference| / |reference|, Euclidean."""
    answer, reference = answer.detach().float(), reference.detach().float()
    return float((answer - reference).norm() / reference.norm())
