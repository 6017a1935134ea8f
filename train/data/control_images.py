"""Control images of samples: their own, or made by a preprocessor from their images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from dianjing.errors import DianjingError
from dianjing.pipelines.control_maps import (
    CANNY_THRESHOLDS,
    LINE_ART_SIGMA,
    LINE_ART_THRESHOLD,
    TILE_FACTOR,
    ControlMapMaker,
    load_preprocessor,
)
from dianjing.train.config.finetune import FinetuneModelConfig
from dianjing.train.data.fitting import fit_control_image
from dianjing.train.data.inspect import decode_image
from dianjing.train.data.samples import SampleRecord
from dianjing.train.data.tensor_cache import hash_folders

PREPROCESSOR_SETTINGS: dict[str, dict[str, object]] = {  # that the maps depend on
    "canny": {"canny_thresholds": CANNY_THRESHOLDS},
    "lineart": {"lineart": (LINE_ART_SIGMA, LINE_ART_THRESHOLD)},
    "tile": {"tile_factor": TILE_FACTOR},
}


@dataclass(frozen=True, kw_only=True)
class ControlImageSource:
    """Source of control images: data sets that have them, and else a preprocessor.

    preprocessor: its name, None for samples that all have a control image. folder: of its model, if it needs one.
    """

    preprocessor: str | None
    folder: str | None = None

    @classmethod
    def from_config(cls, config: FinetuneModelConfig) -> "ControlImageSource | None":
        """The source of a run; None unless a ControlNet is trained."""
        if config.trainable != "controlnet":
            return None
        name = None if config.control_preprocessor == "none" else config.control_preprocessor
        return cls(preprocessor=name, folder=config.control_preprocessor_model)

    def check_records(self, records: Sequence[SampleRecord]) -> None:
        """Raise DianjingError for samples without a control image that no preprocessor makes one for."""
        missing = [record.name for record in records if record.control_image is None]
        if missing and self.preprocessor is None:
            raise DianjingError("control_images_missing", count=len(missing), name=missing[0])

    def make(self, record: SampleRecord, image: Image.Image) -> Image.Image:
        """The control image of a sample whose image is fitted to its bucket, of the same size."""
        if record.control_image is not None:
            control = decode_image(record.control_image, name=f"control image of {record.name}")
            return fit_control_image(control, record, height=image.height, width=image.width)
        assert self.preprocessor is not None, "records are checked"
        return _load(self.preprocessor, self.folder)(image)

    def get_cache_settings(self, record: SampleRecord) -> dict[str, object]:
        """Return what identifies the control image of a sample in the cache, besides its image."""
        if record.control_image is not None:
            return {"control_image": record.control_digest}
        assert self.preprocessor is not None, "records are checked"
        if self.folder is not None:
            return {"preprocessor": self.preprocessor, "model": _get_fingerprint(self.folder)}
        return PREPROCESSOR_SETTINGS[self.preprocessor]


@cache
def _load(preprocessor: str, folder: str | None) -> ControlMapMaker:
    return load_preprocessor(preprocessor, folder=folder)


@cache
def _get_fingerprint(folder: str) -> str:
    """The hash of a model's folder, or its Hub id."""
    return hash_folders([Path(folder)]) if Path(folder).is_dir() else folder
