"""Motion control in training: regions, motion phrases and strengths of clips as tensors.

B batch, F frames, K objects, R regions, M tokens of a motion phrase, T width of the text encoder, H height, W width in
pixels, G cells along a side of the flow grid; latents are (B, C, F, Y, X).
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from transformers import PreTrainedTokenizerBase

from dianjing.dit import MotionControl
from dianjing.train.config.finetune import FinetuneObjectiveConfig
from dianjing.train.config.text_to_image import TextToImageObjectiveConfig
from dianjing.train.data.samples import Batch, CaptionBatcher, ClipSample, SampleRecord

MOTION_CONTROL_KEYS = ("region_masks", "phrase_ids", "phrase_mask", "active", "strengths", "has_first_frame")
PHRASE_PREFIX = "phrase_"  # of keys of a batch with motion phrases


class MotionControlSampler:
    """Turns clips into motion control: one region for each moving object, in random order, other regions empty."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        objective: TextToImageObjectiveConfig,
        *,
        max_regions: int,
        phrase_len: int,
    ) -> None:
        self.tokenizer, self.objective = tokenizer, objective
        self.max_regions, self.phrase_len = max_regions, phrase_len
        self.flow_grid: int | None = None  # G, if batches shall hold backward flow

    def __call__(self, clips: Sequence[ClipSample], uniforms: np.ndarray) -> tuple[list[str], Batch]:
        """Captions (many of them empty) and the tensors of MOTION_CONTROL_KEYS; `uniforms` (B, 2) are on [0, 1).

        If `flow_grid` is set, "backward_flow" (B, R, F, G, G, 2) holds `ClipSample.get_backward_flow` of each region.
        A clip whose first frame is hidden (first-frame masking of Follow-Your-Click) has a caption.
        """
        masks = np.zeros((len(clips), self.max_regions, *clips[0].masks.shape[2:]), np.float32)
        strengths, active = np.zeros((2, len(clips), self.max_regions), np.float32)
        has_first_frame = np.ones(len(clips), np.float32)
        captions, phrases = [], [""] * (len(clips) * self.max_regions)
        flow = None
        if (side := self.flow_grid) is not None:
            shape = (len(clips), self.max_regions, len(clips[0].frames), side, side, 2)
            flow = np.full(shape, np.nan, np.float32)
        for row, (clip, draws) in enumerate(zip(clips, uniforms, strict=True)):
            rng = random.Random(repr(tuple(draws)))
            language = 0 if rng.random() < self.objective.zh_probability else 1
            is_hidden = rng.random() < self.objective.first_frame_masking
            is_dropped = rng.random() < self.objective.caption_dropout
            has_caption = not is_dropped and (is_hidden or rng.random() < self.objective.controlled_caption_probability)
            captions.append((clip.text_zh, clip.text_en)[language] if has_caption else "")
            has_first_frame[row] = not is_hidden
            moving = [k for k, phrases_of_object in enumerate(clip.motion_phrases) if phrases_of_object is not None]
            rng.shuffle(moving)
            for region, k in enumerate(moving[: self.max_regions]):
                masks[row, region] = clip.masks[0, k]
                strengths[row, region] = clip.strengths[k]
                active[row, region] = not is_dropped
                if flow is not None and side is not None and not is_dropped:
                    flow[row, region] = clip.get_backward_flow(k, side)
                paraphrases = clip.motion_phrases[k]
                assert paraphrases is not None
                phrases[row * self.max_regions + region] = rng.choice(paraphrases[language])
        tensors = self._make_tensors(masks, phrases, active, strengths, has_first_frame)
        return captions, tensors if flow is None else tensors | {"backward_flow": torch.from_numpy(flow)}

    def make_empty(self, uniforms: np.ndarray, *, size_px: int) -> Batch:
        """Motion control without regions for captioned clips; some are conditioned on their first frame."""
        count = len(uniforms)
        masks = np.zeros((count, self.max_regions, size_px, size_px), np.float32)
        active, strengths = np.zeros((2, count, self.max_regions), np.float32)
        draws = np.array([random.Random(repr(tuple(draw))).random() for draw in uniforms])
        has_first_frame = (draws < self.objective.clip_first_frame_probability).astype(np.float32)
        return self._make_tensors(masks, [""] * (count * self.max_regions), active, strengths, has_first_frame)

    def _make_tensors(
        self,
        masks: np.ndarray,
        phrases: list[str],
        active: np.ndarray,
        strengths: np.ndarray,
        has_first_frame: np.ndarray,
    ) -> Batch:
        tokens = self.tokenizer(
            phrases, padding="max_length", max_length=self.phrase_len, truncation=True, return_tensors="pt"
        )
        shape = (len(masks), self.max_regions, self.phrase_len)
        tensors = (
            torch.from_numpy(masks),
            tokens.input_ids.reshape(shape),
            tokens.attention_mask.reshape(shape),
            torch.from_numpy(active),
            torch.from_numpy(strengths),
            torch.from_numpy(has_first_frame),
        )
        return dict(zip(MOTION_CONTROL_KEYS, tensors, strict=True))


def encode_motion_control(text_encoder: nn.Module, first_frame: Tensor, tensors: Sequence[Tensor]) -> MotionControl:
    """Build the motion control of a batch from the tensors of MOTION_CONTROL_KEYS.

    `first_frame` are latents (B, C, Y, X). The text encoder runs on the R phrases of every row.
    """
    masks, ids, mask, active, strengths, has_first_frame = tensors
    height, width = first_frame.shape[-2:]
    states = text_encoder(input_ids=ids.flatten(0, 1), attention_mask=mask.flatten(0, 1)).last_hidden_state
    return MotionControl(
        first_frame=first_frame * has_first_frame[:, None, None, None],
        masks=adaptive_avg_pool2d(masks, (height, width)),  # the covered fraction of each latent cell
        phrase_embeds=states.unflatten(0, ids.shape[:2]),
        phrase_mask=mask * (active > 0).unsqueeze(-1),
        strengths=strengths,
    )


class ControlAugmentation(NamedTuple):
    """The random choices for one clip of a fine-tuning batch."""

    has_first_frame: bool
    has_caption: bool
    is_chinese: bool


def sample_control_augmentation(
    record: SampleRecord, uniforms: Sequence[float], objective: FinetuneObjectiveConfig
) -> ControlAugmentation:
    """Choose first frame, caption and language of a clip; `uniforms` (3,) are on [0, 1).

    A clip with a motion label whose first frame is hidden always has a caption (first-frame masking of
    Follow-Your-Click).
    """
    first_frame, caption, language = uniforms
    if record.motion_label is None:
        return ControlAugmentation(first_frame < objective.clip_first_frame_probability, True, False)
    is_hidden = first_frame < objective.first_frame_masking
    is_chinese = record.motion_label.motion_en is None or (
        record.motion_label.motion_zh is not None and language < objective.zh_probability
    )
    has_caption = is_hidden or caption < objective.controlled_caption_probability
    return ControlAugmentation(not is_hidden, has_caption, is_chinese)


def make_control_batch(
    records: Sequence[SampleRecord],
    latents: Sequence[Batch],
    augmentations: Sequence[ControlAugmentation],
    *,
    caption_batcher: CaptionBatcher,
) -> Batch:
    """Motion control of a fine-tuning batch: one region per clip, empty for clips without a motion label.

    The keys are "region_mask" (B, 1, H, W), "strengths" (B, 1), "active" and "has_first_frame" (B,), and the motion
    phrases as `caption_batcher` returns them, with PHRASE_PREFIX before their keys.
    """
    height, width = next((tensors["region_mask"].shape for tensors in latents if "region_mask" in tensors), (1, 1))
    empty = {"region_mask": torch.zeros(height, width), "strength": torch.tensor(0.0)}
    controls = [empty | tensors for tensors in latents]
    phrases = [_get_phrase(record, each) for record, each in zip(records, augmentations, strict=True)]
    return {
        "region_mask": torch.stack([control["region_mask"] for control in controls])[:, None],
        "strengths": torch.stack([control["strength"] for control in controls])[:, None].float(),
        "active": torch.tensor([record.motion_label is not None for record in records]),
        "has_first_frame": torch.tensor([augmentation.has_first_frame for augmentation in augmentations]),
        **{PHRASE_PREFIX + key: tensor for key, tensor in caption_batcher([(text, "") for text in phrases]).items()},
    }


def _get_phrase(record: SampleRecord, augmentation: ControlAugmentation) -> str:
    label = record.motion_label
    if label is None:
        return ""
    return (label.motion_zh if augmentation.is_chinese else label.motion_en) or ""


def make_motion_control(
    batch: Batch, phrase_states: Tensor, phrase_mask: Tensor, *, latents: Tensor, max_regions: int
) -> MotionControl:
    """Build the motion control of a batch from `make_control_batch`; all regions but the first are empty.

    `phrase_states` (B, M, T) and `phrase_mask` (B, M) are the first text encoder's output for the motion phrases.
    """
    rows, (height, width) = len(latents), latents.shape[-2:]
    masks = adaptive_avg_pool2d(batch["region_mask"].to(latents), (height, width))
    phrase_mask = phrase_mask * batch["active"][:, None]

    def pad_regions(tensor: Tensor) -> Tensor:
        """Append empty regions: (B, ...) -> (B, R, ...)."""
        empty = tensor.new_zeros(rows, max_regions - 1, *tensor.shape[1:])
        return torch.cat([tensor[:, None], empty], dim=1)

    return MotionControl(
        first_frame=latents[:, :, 0] * batch["has_first_frame"].to(latents)[:, None, None, None],
        masks=pad_regions(masks[:, 0]),
        phrase_embeds=pad_regions(phrase_states),
        phrase_mask=pad_regions(phrase_mask),
        strengths=pad_regions(batch["strengths"][:, 0]),
    )
