"""Localization of a prompt's subjects in an image by the diffusion model itself, without training.

Noise is added to the image and predicted, once with the whole prompt and once without the words of a subject; the
subject is where the second prediction has the larger error.
Sources: the diffusion classifier (arXiv 2303.16203), here by position; DiffEdit (arXiv 2210.11427), two prompts.

K subjects; latents are B C Y X.
"""

import torch
import torch.nn.functional as F
from diffusers.schedulers import SchedulerMixin
from torch import Tensor

from dianjing.dit import DiT
from dianjing.pipelines.denoiser import make_model_inputs
from dianjing.pipelines.embeds import PromptEmbeds

NOISE_LEVEL = 0.2  # of the schedule: content is still recognizable, but no longer trivial to denoise
NUM_NOISE_SAMPLES = 4
NMS_RADIUS = 2  # in latents, of the non-maximum suppression between two subjects of a kind


def compute_relevance_map(
    transformer: DiT,
    scheduler: SchedulerMixin,
    latents: Tensor,
    embeds: PromptEmbeds,
    *,
    image_meta_size: tuple[int, ...],
) -> Tensor:
    """Compute how much the words of each subject reduce the prediction error at each position: (K, Y, X).

    latents: of one image, (1, C, Y, X). embeds: 1 + K rows, the whole prompt and then the prompt without each subject.
    The noise is always the same.
    """
    noise = torch.randn(NUM_NOISE_SAMPLES, *latents.shape[1:], generator=torch.Generator().manual_seed(0))
    noisy, target, timestep = _add_noise(scheduler, latents.float(), noise.to(latents.device))
    inputs = make_model_inputs(
        transformer, embeds, guided=False, image_meta_size=image_meta_size, device=latents.device
    )
    rows = embeds.batch_size
    inputs = {name: tensor.repeat_interleave(NUM_NOISE_SAMPLES, dim=0) for name, tensor in inputs.items()}
    with transformer.without_cache():
        prediction = transformer(
            noisy.repeat(rows, 1, 1, 1).to(transformer.dtype),
            timestep.expand(rows * NUM_NOISE_SAMPLES),
            **inputs,
            return_dict=False,
        )[0]
    errors = (prediction[:, : latents.shape[1]].float() - target.repeat(rows, 1, 1, 1)).square()
    errors = errors.unflatten(0, (rows, NUM_NOISE_SAMPLES)).mean(dim=(1, 2))
    return errors[1:] - errors[0]


def _add_noise(scheduler: SchedulerMixin, latents: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, the target of the model's prediction, and their timestep (1,)."""
    index = int(NOISE_LEVEL * scheduler.config.num_train_timesteps)
    timestep = torch.tensor([float(index)], device=latents.device)
    prediction_type = getattr(scheduler.config, "prediction_type", "flow_prediction")
    if prediction_type == "flow_prediction" or not hasattr(scheduler, "alphas_cumprod"):
        return (1 - NOISE_LEVEL) * latents + NOISE_LEVEL * noise, noise - latents, timestep
    alpha_bar = scheduler.alphas_cumprod[index].to(latents.device)
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    noisy = alpha * latents + sigma * noise
    if prediction_type == "v_prediction":
        return noisy, alpha * noise - sigma * latents, timestep
    return noisy, noise if prediction_type == "epsilon" else latents.expand_as(noise), timestep


def subtract_other_subjects(relevance_map: Tensor) -> Tensor:
    """Subtract from the relevance of each subject what another one explains better than nothing: (K, Y, X)."""
    explained = relevance_map.clamp_min(0)
    others = [torch.cat([explained[:index], explained[index + 1 :]]) for index in range(len(explained))]
    return torch.stack(
        [each - rest.amax(dim=0) if len(rest) else each for each, rest in zip(relevance_map, others, strict=True)]
    )


def find_peaks(relevance_map: Tensor, counts: list[int], *, window: int = 3) -> list[list[tuple[int, int]]]:
    """Find `counts[k]` peaks of each subject k in a relevance map (K, Y, X): (column, row) in latents.

    window: odd side of the squares that the map is averaged over first. What another subject explains is subtracted.
    """
    smoothed = F.avg_pool2d(relevance_map.unsqueeze(1), window, stride=1, padding=window // 2).squeeze(1)
    peaks_by_subject = []
    for remaining, count in zip(subtract_other_subjects(smoothed), counts, strict=True):
        peaks = []
        for _ in range(count):
            row, column = divmod(int(remaining.argmax()), remaining.shape[1])
            peaks.append((column, row))
            top, left = max(0, row - NMS_RADIUS), max(0, column - NMS_RADIUS)
            remaining[top : row + NMS_RADIUS + 1, left : column + NMS_RADIUS + 1] = -torch.inf
        peaks_by_subject.append(peaks)
    return peaks_by_subject
