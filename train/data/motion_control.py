"""Clicks in training: what is asked of which object of a clip, as tensors.

B batch, F frames, K objects, R regions, M tokens of a motion phrase; latents are B C F Y X.
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


class MotionControlSampler:
    """Clips to click tensors: a region for each moving object in random order, the rest empty."""

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
        self.flow_grid: int | None = None  # latents along a side, where the ways back are told too

    def __call__(self, clips: Sequence[ClipSample], uniforms: np.ndarray) -> tuple[list[str], Batch]:
        """Captions, often none, and the tensors of CLICK_KEYS; draws (B, 2) are uniform on [0, 1).

        Where ways back are told, also "ways_back" (B, R, F, Y, X, 2), as `ClipSample.ways_back` has them.
        Where the first frame is hidden (Follow-Your-Click's first-frame masking) the caption says what is in it.
        """
        masks = np.zeros((len(clips), self.max_regions, *clips[0].masks.shape[2:]), np.float32)
        strengths, asked = np.zeros((2, len(clips), self.max_regions), np.float32)
        shows_first = np.ones(len(clips), np.float32)
        captions, phrases = [], [""] * (len(clips) * self.max_regions)
        ways = None
        if (side := self.flow_grid) is not None:
            shape = (len(clips), self.max_regions, len(clips[0].frames), side, side, 2)
            ways = np.full(shape, np.nan, np.float32)
        for row, (clip, draw) in enumerate(zip(clips, uniforms, strict=True)):
            rng = random.Random(repr(tuple(draw)))
            language = 0 if rng.random() < self.objective.zh_probability else 1
            is_hidden = rng.random() < self.objective.first_frame_masking
            is_silent = rng.random() < self.objective.caption_dropout
            has_caption = not is_silent and (is_hidden or rng.random() < self.objective.controlled_caption_probability)
            captions.append((clip.text_zh, clip.text_en)[language] if has_caption else "")
            shows_first[row] = not is_hidden
            moving = [k for k, phrase in enumerate(clip.motion_phrases) if phrase is not None]
            rng.shuffle(moving)
            for region, k in enumerate(moving[: self.max_regions]):
                masks[row, region] = clip.masks[0, k]
                strengths[row, region] = clip.strengths[k]
                asked[row, region] = not is_silent
                if ways is not None and side is not None and not is_silent:
                    ways[row, region] = clip.get_backward_flow(k, side)
                phrasings = clip.motion_phrases[k]
                assert phrasings is not None
                phrases[row * self.max_regions + region] = rng.choice(phrasings[language])
        tensors = self._make_tensors(masks, phrases, asked, strengths, shows_first)
        return captions, tensors if ways is None else tensors | {"backward_flow": torch.from_numpy(ways)}

    def make_empty(self, uniforms: np.ndarray, *, size_px: int) -> Batch:
        """The tensors of clips that are told in words; some show their first frame, to be continued from."""
        count = len(uniforms)
        masks = np.zeros((count, self.max_regions, size_px, size_px), np.float32)
        asked, strengths = np.zeros((2, count, self.max_regions), np.float32)
        shows_first = np.array([random.Random(repr(tuple(draw))).random() for draw in uniforms])
        shows_first = (shows_first < self.objective.clip_first_frame_probability).astype(np.float32)
        return self._make_tensors(masks, [""] * (count * self.max_regions), asked, strengths, shows_first)

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
    """A click on first_frame (B, C, Y, X), from the tensors of CLICK_KEYS."""
    masks, ids, mask, asked, strengths, shows_first = tensors
    height, width = first_frame.shape[-2:]
    states = text_encoder(input_ids=ids.flatten(0, 1), attention_mask=mask.flatten(0, 1)).last_hidden_state
    return MotionControl(
        first_frame=first_frame * shows_first[:, None, None, None],
        masks=adaptive_avg_pool2d(masks, (height, width)),  # the share of each latent that is covered
        phrase_embeds=states.unflatten(0, ids.shape[:2]),
        phrase_mask=mask * (asked > 0).unsqueeze(-1),
        strengths=strengths,
    )


PHRASE_PREFIX = "phrase_"  # before the names of what the first encoder reads of the motions


class ControlAugmentation(NamedTuple):
    has_first_frame: bool
    has_caption: bool
    is_chinese: bool


def sample_control_augmentation(
    record: SampleRecord, uniforms: Sequence[float], objective: FinetuneObjectiveConfig
) -> ControlAugmentation:
    """What is shown and said of a film; chances are on [0, 1).

    A click that hides the first frame has a caption, which then says what is in it (Follow-Your-Click's first-frame
    masking).
    """
    first, said, language = uniforms
    if record.motion_label is None:
        return ControlAugmentation(first < objective.clip_first_frame_probability, True, False)
    is_hidden = first < objective.first_frame_masking
    is_chinese = record.motion_label.motion_en is None or (
        record.motion_label.motion_zh is not None and language < objective.zh_probability
    )
    return ControlAugmentation(not is_hidden, is_hidden or said < objective.controlled_caption_probability, is_chinese)


def make_control_batch(
    records: Sequence[SampleRecord],
    latents: Sequence[Batch],
    augmentations: Sequence[ControlAugmentation],
    *,
    caption_batcher: CaptionBatcher,
) -> Batch:
    """As "clicked" (B, 1, H, W), "strengths" (B, 1), "asked" and "shows_first" (B,), and motions as `say` has them."""
    height, width = next((p["region_mask"].shape for p in latents if "region_mask" in p), (1, 1))
    nothing = {"region_mask": torch.zeros(height, width), "strength": torch.tensor(0.0)}
    found = [nothing | picture for picture in latents]
    motions = [
        ""
        if entry.motion_label is None
        else (entry.motion_label.motion_zh if draw.is_chinese else entry.motion_label.motion_en) or ""
        for entry, draw in zip(records, augmentations, strict=True)
    ]
    return {
        "region_mask": torch.stack([each["region_mask"] for each in found])[:, None],
        "strengths": torch.stack([each["strength"] for each in found])[:, None].float(),
        "active": torch.tensor([entry.motion_label is not None for entry in records]),
        "has_first_frame": torch.tensor([draw.has_first_frame for draw in augmentations]),
        **{
            PHRASE_PREFIX + name: tensor
            for name, tensor in caption_batcher([(motion, "") for motion in motions]).items()
        },
    }


def make_motion_control(
    batch: Batch, phrases: Tensor, mask: Tensor, *, latents: Tensor, max_regions: int
) -> MotionControl:
    """From `click_batch`, with states (B, M, T) and mask (B, M) of the motions; all regions but the first are empty."""
    rows, (height, width) = len(latents), latents.shape[-2:]
    covered = adaptive_avg_pool2d(batch["region_mask"].to(latents), (height, width))
    mask = mask * batch["active"][:, None]

    def first_of_many(tensor: Tensor) -> Tensor:
        """(B, ...) -> (B, R, ...)"""
        empty = tensor.new_zeros(rows, max_regions - 1, *tensor.shape[1:])
        return torch.cat([tensor[:, None], empty], dim=1)

    return MotionControl(
        first_frame=latents[:, :, 0] * batch["has_first_frame"].to(latents)[:, None, None, None],
        masks=first_of_many(covered[:, 0]),
        phrase_embeds=first_of_many(phrases),
        phrase_mask=first_of_many(mask),
        strengths=first_of_many(batch["strengths"][:, 0]),
    )
