"""The models known by name: where they come from, under which licence, how large they are."""

import difflib
from dataclasses import dataclass
from pathlib import Path

BUNDLED = "bundled"
HUNYUAN_LICENCE = "tencent-hunyuan-community"


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One model. `source` is a Hub id, or EMBEDDED for a folder that ships with the package.

    `revision` is a commit on the Hub and so pins every byte; None follows the newest. The
    embedded bundle is pinned by the SHA256SUMS in its folder.
    """

    name: str
    source: str
    revision: str | None
    licence: str
    download_bytes: int
    summary: str

    @property
    def bundled_folder(self) -> Path | None:
        """Where an embedded bundle lies; None for a model on the Hub."""
        return Path(__file__).parent / self.name if self.source == BUNDLED else None


MODELS = (
    ModelInfo(
        name="sticker",
        source=BUNDLED,
        revision=None,
        licence="Apache-2.0",
        download_bytes=0,
        summary="emoji-like objects in small scenes; Chinese and English; runs on two CPU cores",
    ),
    ModelInfo(
        name="hunyuan-dit-v1.2",
        source="Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers",
        revision="5e96094e0ad19e7f475de8711f03634ca0ccc40c",
        licence=HUNYUAN_LICENCE,
        download_bytes=14_400_000_000,
        summary="Hunyuan-DiT v1.2, 1.5 B parameters, 1024 px and more; Chinese and English",
    ),
    ModelInfo(
        name="hunyuan-dit-v1.2-distilled",
        source="Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers-Distilled",
        revision="8fce45fe17e8e939c690f8846b67c856db3d631a",
        licence=HUNYUAN_LICENCE,
        download_bytes=14_400_000_000,
        summary="the same in half the steps",
    ),
    ModelInfo(
        name="hunyuan-dit-v1.1",
        source="Tencent-Hunyuan/HunyuanDiT-v1.1-Diffusers",
        revision="30711e9f2e8020815414d46e90664edd4100b256",
        licence=HUNYUAN_LICENCE,
        download_bytes=14_500_000_000,
        summary="Hunyuan-DiT v1.1, which also takes a style and the picture's size",
    ),
    ModelInfo(
        name="hunyuan-dit-v1.1-distilled",
        source="Tencent-Hunyuan/HunyuanDiT-v1.1-Diffusers-Distilled",
        revision=None,
        licence=HUNYUAN_LICENCE,
        download_bytes=14_500_000_000,
        summary="the same in half the steps",
    ),
    ModelInfo(
        name="hunyuan-video-i2v",
        source="hunyuanvideo-community/HunyuanVideo-I2V",
        revision=None,
        licence=HUNYUAN_LICENCE,
        download_bytes=42_000_000_000,
        summary="image to video, 13 B; loads in diffusers, for dianjing.pipelines.video.region_animation.animate_regions",
    ),
)

_MODELS_BY_NAME = {entry.name: entry for entry in MODELS}


def get_model_info(name: str) -> ModelInfo | None:
    return _MODELS_BY_NAME.get(name)


def suggest_model_names(name: str) -> str:
    """What an unknown name may have meant, as the end of an error message."""
    close = difflib.get_close_matches(name, _MODELS_BY_NAME, n=1)
    known = ", ".join(_MODELS_BY_NAME)
    return f"did you mean {close[0]!r}? (known names: {known})" if close else f"names: {known}"
