"""Flow of motion phrases for images of any size, by the flow field of a model.

R regions, F frames, S side of a mask, G flow points along a side. Each region has a square of its own, in whose sides
the flow is measured; G points reach from border to border of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dianjing.dit import MotionControl
from dianjing.dit.motion.control import MotionConditioner
from dianjing.dit.motion.flow_field import grid_points
from dianjing.dit.motion.warp import MotionTrack, warp_regions
from dianjing.errors import DianjingError
from dianjing.pipelines.prompt_embeds import tokenize
from dianjing.pipelines.prompting.motions import MotionVocabulary

FLOW_POINTS = 33
MASK_SIDE_PX = 64


@dataclass(frozen=True, kw_only=True)
class PhraseFlow:
    """Predictor of the flow of motion phrases: a text encoder, the flow field, and the motions that it knows.

    window_size: frames of the videos that it was trained on, at `fps`.
    """

    conditioner: MotionConditioner
    text_encoder: Any
    tokenizer: Any
    text_len: int
    motion_vocabulary: MotionVocabulary
    window_size: int
    fps: float

    @classmethod
    def from_pipeline(cls, pipe: Any) -> "PhraseFlow":
        """Take the parts of a video pipeline. Raises: DianjingError for a model without a flow field."""
        conditioner = getattr(pipe.transformer, "motion_conditioner", None)
        if conditioner is None or conditioner.flow_field is None:
            raise DianjingError("model_without_flow_field")
        return cls(
            conditioner=conditioner,
            text_encoder=pipe.text_encoder,
            tokenizer=pipe.tokenizer,
            text_len=pipe.transformer.config.text_len,
            motion_vocabulary=pipe.motion_vocabulary,
            window_size=pipe.config.default_num_frames,
            fps=pipe.config.default_fps,
        )

    @torch.no_grad()
    def predict(
        self, masks: Tensor, phrases: Sequence[str], strengths: Sequence[float], *, num_frames: int, fps: float
    ) -> np.ndarray:
        """Predict backward flow to the first frame, float32 (R, F, G, G, 2), in sides of each region's square.

        masks: (R, S, S), each in its square. strengths: 0 to 1. A motion takes the same time at every frame rate.
        """
        device = self.text_encoder.device
        masks = masks.unsqueeze(1).to(device)
        control = self._encode(masks, phrases, strengths)
        points = grid_points(FLOW_POINTS, device=device)
        track = MotionTrack.from_masks(masks, grid_size=FLOW_POINTS)
        flows = [torch.zeros(len(masks), 1, FLOW_POINTS, FLOW_POINTS, 2)]
        frame_step = self.fps / fps
        length = max(2, round((self.window_size - 1) / frame_step) + 1)
        for start in range(0, num_frames - 1, length - 1):
            flow = self.conditioner.predict_backward_flow(
                control, track.compute_moments(), length, points=points, frame_step=frame_step
            )
            flow = track.compose(flow.unflatten(3, (FLOW_POINTS, FLOW_POINTS)))
            flows.append(flow[:, 0, 1 : num_frames - start].cpu().float())
            warp = warp_regions(masks, masks, flow[:, :, -1:], torch.ones(len(masks), 1, device=device))
            track = MotionTrack(masks, warp.coverage[:, -1], flow[:, :, -1])
        return torch.cat(flows, dim=1).numpy()

    def _encode(self, masks: Tensor, phrases: Sequence[str], strengths: Sequence[float]) -> MotionControl:
        vocabulary, device = self.motion_vocabulary, masks.device
        speeds = [vocabulary.get_speed(*pair) for pair in zip(phrases, strengths, strict=True)]
        texts = [vocabulary.canonicalize(phrase) for phrase in phrases]
        length = min(max(map(len, self.tokenizer(texts).input_ids)), self.text_len)
        ids, phrase_mask = (part.to(device) for part in tokenize(self.tokenizer, texts, max_length=length))
        states = self.text_encoder(ids, attention_mask=phrase_mask)[0]
        return MotionControl(
            first_frame=masks.new_zeros(len(masks), 1, 1, 1),
            masks=masks,
            phrase_embeds=states.unsqueeze(1),
            phrase_mask=phrase_mask.unsqueeze(1),
            strengths=torch.tensor(speeds, device=device).unsqueeze(1),
        )
