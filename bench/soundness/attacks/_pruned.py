"""Weights set to zero. A score says which: the least go; Wanda's is |w| times the size of its input."""

from torch import Tensor, zeros_like


def least_in_rows(weight: Tensor, score: Tensor, share: float) -> Tensor:
    """Set a share of each row to zero, those of the least score. Both are [outputs, inputs]."""
    count = round(share * weight.shape[1])
    return weight.scatter(1, score.topk(count, dim=1, largest=False).indices, 0.0)


def two_of_four(weight: Tensor, score: Tensor) -> Tensor:
    """Keep the two of each four inputs in a row that have the largest score, as sparse tensor cores want."""
    fours = score.reshape(len(score), -1, 4)
    kept = zeros_like(fours).scatter(2, fours.topk(2, dim=2).indices, 1.0)
    return weight * kept.flatten(1)


def wanda(weight: Tensor, moments: Tensor) -> Tensor:
    """Score weights by Wanda (arXiv:2306.11695), `|w_ij| · ‖x_j‖`.

    Args:
        weight: [outputs, inputs].
        moments: Σ xxᵀ of the inputs that it is calibrated on, [inputs, inputs].
    """
    return weight.abs() * moments.diagonal().sqrt()
