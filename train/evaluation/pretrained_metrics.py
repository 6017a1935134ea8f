"""Metrics of videos by pretrained models: CLIP for single frames, a video model for whole videos.

Weights are folders or Hub ids that transformers reads; none comes with Dianjing.
B batch, F frames, H height, W width, D width of the features.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers import AutoImageProcessor, AutoModel, AutoProcessor

from dianjing.errors import DianjingError


class CLIPMetrics:
    """Consistency of neighbouring frames, and alignment of frames with a caption, in the embedding of a CLIP model.

    Source: "Temporal" and "Text" of Follow-Your-Click (arXiv 2403.08268), Tab. 1.
    """

    def __init__(self, weights: str):
        self.model = AutoModel.from_pretrained(weights, use_safetensors=True)
        self.processor = AutoProcessor.from_pretrained(weights)

    @torch.no_grad()
    def _embed_frames(self, frames: np.ndarray) -> Tensor:
        """Embed frames, uint8 (F, H, W, 3), as (F, D)."""
        pixels = self.processor.image_processor(images=list(frames), return_tensors="pt")
        return self.model.get_image_features(**pixels).pooler_output

    @torch.no_grad()
    def _embed_text(self, text: str) -> Tensor:
        """Embed a text as (1, D)."""
        tokens = self.processor.tokenizer([text], truncation=True, return_tensors="pt")
        return self.model.get_text_features(**tokens).pooler_output

    def measure_temporal_consistency(self, frames: np.ndarray) -> float:
        """Compute the mean cosine similarity of each frame of (F, H, W, 3) with the next one."""
        embeddings = self._embed_frames(frames)
        return float(cosine_similarity(embeddings[:-1], embeddings[1:]).mean())

    def measure_text_alignment(self, frames: np.ndarray, caption: str) -> float:
        """Compute the mean cosine similarity of the frames (F, H, W, 3) with a caption."""
        return float(cosine_similarity(self._embed_frames(frames), self._embed_text(caption)).mean())


class VideoFeatureExtractor(nn.Module):
    """Features of videos for a content-debiased FVD: the mean of a video model's last hidden states.

    weights: a folder or Hub id of VideoMAE, ViViT or TimeSformer. Source: Ge et al. 2024 (arXiv 2404.12391).
    """

    def __init__(self, weights: str):
        super().__init__()
        self.model = AutoModel.from_pretrained(weights, use_safetensors=True)
        self.num_features = self.model.config.hidden_size  # read by torchmetrics
        self.processor = AutoImageProcessor.from_pretrained(weights)

    @torch.no_grad()
    def forward(self, videos: Tensor) -> Tensor:
        """Compute features (B, D) of uint8 (B, F, H, W, 3), sampled at as many frames as the model takes."""
        features = []
        for video in videos.numpy():
            num_frames = getattr(self.model.config, "num_frames", len(video))
            frames = video[np.linspace(0, len(video) - 1, num_frames).round().astype(int)]
            pixels = self.processor(list(frames), return_tensors="pt")
            features.append(self.model(**pixels).last_hidden_state.mean(dim=1))
        return torch.cat(features)


def compute_frechet_video_distance(generated: Sequence[np.ndarray], real: Sequence[np.ndarray], weights: str) -> float:
    """Compute the Fréchet distance between the features of two sets of videos, uint8 (F, H, W, 3) each.

    Raises: DianjingError if torchmetrics is missing, or for fewer than two videos in a set.
    """
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError:
        raise DianjingError("torchmetrics_missing") from None
    if min(len(generated), len(real)) < 2:
        raise DianjingError("too_few_videos_for_distance", generated=len(generated), real=len(real))
    distance = FrechetInceptionDistance(feature=VideoFeatureExtractor(weights))
    for videos, is_real in ((generated, False), (real, True)):
        for video in videos:
            distance.update(torch.from_numpy(video[None]), real=is_real)  # it counts samples by the first axis
    return float(distance.compute())
