"""The sticker world: procedural bilingual samples with exact ground truth, for training and for evaluation."""

from dianjing.train.stickers.world import CurriculumStage, StickerSample, StickerWorld

__all__ = ["CurriculumStage", "StickerSample", "StickerWorld"]
