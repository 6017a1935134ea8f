"""Scores of films by what large pretrained models see in them: CLIP frame by frame, a video model in whole films.

Weights are folders or Hub ids that transformers reads; none comes with Dianjing.
F frames, H height, W width, D width of the features.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers import AutoImageProcessor, AutoModel, AutoProcessor

MISSING_TORCHMETRICS = "the Fréchet distance takes torchmetrics: pip install 'dianjing[evaluate]'"


class CLIPMetrics:
    """How alike neighbouring frames are, and how well a film fits its words, in the space of a CLIP model.

    Source: "Temporal" and "Text" of Follow-Your-Click (arXiv 2403.08268), Tab. 1.
    """

    def __init__(self, weights: str):
        self.model = AutoModel.from_pretrained(weights, use_safetensors=True)
        self.processor = AutoProcessor.from_pretrained(weights)

    @torch.no_grad()
    def _embed_frames(self, frames: np.ndarray) -> Tensor:
        """(F, D)"""
        pixels = self.processor.image_processor(images=list(frames), return_tensors="pt")
        return self.model.get_image_features(**pixels).pooler_output

    @torch.no_grad()
    def _embed_text(self, text: str) -> Tensor:
        """(1, D)"""
        tokens = self.processor.tokenizer([text], truncation=True, return_tensors="pt")
        return self.model.get_text_features(**tokens).pooler_output

    def measure_temporal_consistency(self, frames: np.ndarray) -> float:
        """Mean cosine of each frame and the next."""
        seen = self._embed_frames(frames)
        return float(cosine_similarity(seen[:-1], seen[1:]).mean())

    def measure_text_alignment(self, frames: np.ndarray, caption: str) -> float:
        """Mean cosine of the frames and the caption."""
        return float(cosine_similarity(self._embed_frames(frames), self._embed_text(caption)).mean())


class VideoFeatureExtractor(nn.Module):
    """A film to the mean of a video model's last states (VideoMAE, ViViT, TimeSformer), as for content-debiased FVD.

    Source: Ge et al. 2024 (arXiv 2404.12391).
    """

    def __init__(self, weights: str):
        super().__init__()
        self.model = AutoModel.from_pretrained(weights, use_safetensors=True)
        self.num_features = self.model.config.hidden_size  # torchmetrics asks for it
        self.processor = AutoImageProcessor.from_pretrained(weights)

    @torch.no_grad()
    def forward(self, videos: Tensor) -> Tensor:
        """uint8 (B, F, H, W, 3), spread over the frames the model takes, to (B, D)."""
        features = []
        for film in videos.numpy():
            taken = getattr(self.model.config, "num_frames", len(film))
            frames = film[np.linspace(0, len(film) - 1, taken).round().astype(int)]
            pixels = self.processor(list(frames), return_tensors="pt")
            features.append(self.model(**pixels).last_hidden_state.mean(dim=1))
        return torch.cat(features)


def compute_frechet_video_distance(generated: Sequence[np.ndarray], real: Sequence[np.ndarray], weights: str) -> float:
    """Between the features of two sets of films, uint8 (F, H, W, 3).

    Raises: ImportError without torchmetrics. ValueError for fewer than two films.
    """
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError:
        raise ImportError(MISSING_TORCHMETRICS) from None
    if min(len(generated), len(real)) < 2:
        raise ValueError(f"a distance between {len(generated)} and {len(real)} films; it takes two of each and more")
    distance = FrechetInceptionDistance(feature=VideoFeatureExtractor(weights))
    for films, is_real in ((generated, False), (real, True)):
        for film in films:
            distance.update(torch.from_numpy(film[None]), real=is_real)  # it counts samples by the first axis
    return float(distance.compute())
