"""Matting: the opacity and the own colors of an object where its edge mixes them with the background.

H height, W width, U unknown pixels, K windows of N pixels; colors are float64 (H, W, 3) on [0, 1].
"""

import cv2
import numpy as np

WINDOW_PX = 3
COLOUR_VARIANCE = 1e-6  # regularizes the color lines of a window
PRIOR_WEIGHT = 1e-5  # of the mask, which decides where no color line leads to a known pixel
FOREGROUND_WEIGHT = 0.05  # of the colors inside, where the edge has almost none of its own
BACKGROUND_SIGMA_PX = 2.0  # of the mean of the background around a pixel of the edge
MIN_BACKGROUND_SHARE = 1e-3  # of that mean which must be known; farther away the nearest color is taken


def solve_alpha(
    colors: np.ndarray, prior: np.ndarray, unknown: np.ndarray, *, prior_weight: float = PRIOR_WEIGHT
) -> np.ndarray:
    """Solve the opacity (H, W) of the unknown pixels, bool (H, W); elsewhere it is the prior, (H, W) on [0, 1].

    In each window the opacity is taken to be an affine function of the color. prior_weight: of the prior at the unknown
    pixels.
    Source: Levin et al. 2008, "A closed-form solution to natural image matting", Eq. 12.
    """
    from scipy.sparse import coo_array, identity
    from scipy.sparse.linalg import spsolve

    height, width = unknown.shape
    if not unknown.any() or min(height, width) < WINDOW_PX:
        return prior.astype(np.float64)
    pixels = np.arange(height * width).reshape(height, width)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (WINDOW_PX, WINDOW_PX)).reshape(-1, WINDOW_PX**2)
    windows = windows[unknown.ravel()[windows].any(axis=1)]
    weights = _compute_window_weights(colors.reshape(-1, 3)[windows])  # (K, N, N)
    rows, columns = (np.broadcast_to(part, weights.shape) for part in (windows[:, :, None], windows[:, None, :]))
    indices = np.full(height * width, -1)
    indices[unknown.ravel()] = np.arange(unknown.sum())
    both_unknown = (indices[rows] >= 0) & (indices[columns] >= 0)
    to_known = (indices[rows] >= 0) & (indices[columns] < 0)
    size = int(unknown.sum())
    laplacian = coo_array(
        (weights[both_unknown], (indices[rows[both_unknown]], indices[columns[both_unknown]])), (size, size)
    )
    flat_prior = prior.ravel().astype(np.float64)
    known_part = weights[to_known] * flat_prior[columns[to_known]]
    target = prior_weight * flat_prior[unknown.ravel()]
    target -= np.bincount(indices[rows[to_known]], known_part, minlength=size)
    alpha = flat_prior.copy()
    alpha[unknown.ravel()] = spsolve((laplacian + prior_weight * identity(size)).tocsc(), target)
    return alpha.reshape(height, width).clip(0, 1)


def _compute_window_weights(colors: np.ndarray) -> np.ndarray:
    """Compute the matting Laplacian of each window, (K, N, N), from the colors of its pixels (K, N, 3)."""
    num_pixels = colors.shape[1]
    centered = colors - colors.mean(axis=1, keepdims=True)
    covariance = np.einsum("kni,knj->kij", centered, centered) / num_pixels
    inverse = np.linalg.inv(covariance + COLOUR_VARIANCE / num_pixels * np.eye(3))
    affinity = (1 + np.einsum("kni,kij,kmj->knm", centered, inverse, centered)) / num_pixels
    return np.eye(num_pixels) - affinity


def estimate_foreground(image: np.ndarray, alpha: np.ndarray, inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Estimate the object's own colors (H, W, 3) on [0, 1] of an image, uint8 (H, W, 3): the background is taken out.

    inside, outside: bool (H, W), where the object and where the background are alone. The background goes on behind
    the edge as around it, and the object as inside it, as far as the image leaves that open.
    """
    colors = image.astype(np.float64) / 255
    background = _extend_smoothly(colors, outside)
    extended = _extend_colors(colors, inside if inside.any() else alpha >= alpha.max())
    opacity = alpha[..., None]
    # the least squares of image = opacity foreground + (1 - opacity) background, with the extended colors as prior
    residual = colors - opacity * extended - (1 - opacity) * background
    foreground = extended + opacity * residual / (opacity**2 + FOREGROUND_WEIGHT)
    foreground[inside] = colors[inside]
    return foreground.clip(0, 1)


def _extend_smoothly(colors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Give every pixel the mean of the known ones around it, or the color of the nearest one."""
    share = cv2.GaussianBlur(known.astype(np.float64), (0, 0), BACKGROUND_SIGMA_PX)[..., None]
    total = cv2.GaussianBlur(colors * known[..., None], (0, 0), BACKGROUND_SIGMA_PX)
    return np.where(share > MIN_BACKGROUND_SHARE, total / np.maximum(share, 1e-9), _extend_colors(colors, known))


def _extend_colors(colors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Give every pixel the color of the nearest known one; without any, its own."""
    if not known.any():
        return colors
    _, labels = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    nearest = np.zeros((labels.max() + 1, 3))
    nearest[labels[known]] = colors[known]
    return nearest[labels]
