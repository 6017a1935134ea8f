"""Where in a picture something is that its prompt names: the model itself knows, if it is asked in two ways.

Noise is added to the picture and predicted, once with the whole prompt and once without the words in question; where
the second prediction is the worse one, there it is. No weights are trained for this.
Source: the diffusion classifier (arXiv 2303.16203), place by place; two prompts for a mask, DiffEdit (2210.11427).

B batch, K subjects; latents are B C Y X.
"""

import torch
import torch.nn.functional as F
from diffusers.schedulers import SchedulerMixin
from torch import Tensor

from dianjing.dit import DiT
from dianjing.pipelines.prompt_embeds import PromptEmbeds
from dianjing.pipelines.sampling import make_model_inputs

NOISE_LEVEL = 0.2  # of the schedule: what is there can still be told, but is no longer plain to see
NUM_NOISE_SAMPLES = 4
NMS_RADIUS = 2  # latents between two of a kind


def compute_relevance_map(
    transformer: DiT,
    scheduler: SchedulerMixin,
    latents: Tensor,
    embeds: PromptEmbeds,
    *,
    image_meta_size: tuple[int, ...],
) -> Tensor:
    """How much more is known of each place of one picture (1, C, Y, X) with a subject's words: (K, Y, X).

    text has 1 + K rows: the whole prompt, then the prompt without each subject. Always from the same noise.
    """
    drawn = torch.randn(NUM_NOISE_SAMPLES, *latents.shape[1:], generator=torch.Generator().manual_seed(0))
    noisy, target, timestep = _add_noise(scheduler, latents.float(), drawn.to(latents.device))
    inputs = make_model_inputs(
        transformer, embeds, guided=False, image_meta_size=image_meta_size, device=latents.device
    )
    rows = embeds.batch_size
    inputs = {name: tensor.repeat_interleave(NUM_NOISE_SAMPLES, dim=0) for name, tensor in inputs.items()}
    predicted = transformer(
        noisy.repeat(rows, 1, 1, 1).to(transformer.dtype),
        timestep.expand(rows * NUM_NOISE_SAMPLES),
        **inputs,
        return_dict=False,
    )[0]
    errors = (predicted[:, : latents.shape[1]].float() - target.repeat(rows, 1, 1, 1)).square()
    errors = errors.unflatten(0, (rows, NUM_NOISE_SAMPLES)).mean(dim=(1, 2))
    return errors[1:] - errors[0]


def _add_noise(scheduler: SchedulerMixin, latents: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy latents, what the model is to predict of them, and their timestep (1,)."""
    at = int(NOISE_LEVEL * scheduler.config.num_train_timesteps)
    timestep = torch.tensor([float(at)], device=latents.device)
    kind = getattr(scheduler.config, "prediction_type", "flow_prediction")
    if kind == "flow_prediction" or not hasattr(scheduler, "alphas_cumprod"):
        return (1 - NOISE_LEVEL) * latents + NOISE_LEVEL * noise, noise - latents, timestep
    alpha_bar = scheduler.alphas_cumprod[at].to(latents.device)
    signal, spread = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    noisy = signal * latents + spread * noise
    if kind == "v_prediction":
        return noisy, signal * noise - spread * latents, timestep
    return noisy, noise if kind == "epsilon" else latents.expand_as(noise), timestep


def find_peaks(relevance_map: Tensor, counts: list[int]) -> list[list[tuple[int, int]]]:
    """Where each subject of evidence (K, Y, X) is, as many as there are of it: (column, row) in latents."""
    known = F.avg_pool2d(relevance_map.unsqueeze(1), 3, stride=1, padding=1).squeeze(1)
    found = []
    for index, count in enumerate(counts):
        others = torch.cat([known[:index], known[index + 1 :]])
        left = known[index] - others.clamp_min(0).amax(dim=0) if len(others) else known[index].clone()
        at = []
        for _ in range(count):
            row, column = divmod(int(left.argmax()), left.shape[1])
            at.append((column, row))
            left[
                max(0, row - NMS_RADIUS) : row + NMS_RADIUS + 1, max(0, column - NMS_RADIUS) : column + NMS_RADIUS + 1
            ] = -torch.inf
        found.append(at)
    return found
