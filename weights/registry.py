"""Registry: the models that have a name, with their repositories, licence and size."""

import difflib
from dataclasses import dataclass
from pathlib import Path

Size = tuple[int, int]  # width and height in px
HUNYUAN_LICENCE = "tencent-hunyuan-community"
HUNYUAN_SIZES: tuple[Size, ...] = (
    (1024, 1024),
    (1280, 1280),
    (1024, 768),
    (1152, 864),
    (1280, 960),
    (1280, 768),
    (768, 1024),
    (864, 1152),
    (960, 1280),
    (768, 1280),
)


@dataclass(frozen=True, kw_only=True)
class FinetuneDefaults:
    """Settings under which an adapter learns a thing from about twelve images and keeps what its model knows.

    size_px: side of training images. prior_preservation: weight of the base model's predictions for other captions.
    """

    size_px: int
    total_steps: int
    batch_size: int
    learning_rate: float
    rank: int
    target_modules: tuple[str, ...]
    ema_decay: float
    prior_preservation: float
    mixed_precision: str = "no"
    gradient_checkpointing_interval: int = 0


ATTENTION_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD_LAYERS = ("ff.net.0.proj", "ff.net.2")
LARGE_MODEL_FINETUNING = FinetuneDefaults(
    size_px=1024,
    total_steps=1000,
    batch_size=2,
    learning_rate=1e-4,
    rank=32,
    target_modules=ATTENTION_LAYERS,
    ema_decay=0.99,
    prior_preservation=1.0,
    mixed_precision="bf16",
    gradient_checkpointing_interval=1,
)
STICKER_FINETUNING = FinetuneDefaults(  # measured by benchmarks.new_concept
    size_px=64,
    total_steps=1600,
    batch_size=6,
    learning_rate=1e-3,
    rank=32,
    target_modules=(*ATTENTION_LAYERS, *FEED_FORWARD_LAYERS),
    ema_decay=0.99,
    prior_preservation=1.0,
)


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model of the registry.

    repository: owner/name on the Hugging Face Hub, or None for a bundle that ships with this package. revision: commit
    there, which pins every byte; None follows the newest. A bundle is pinned by the SHA256SUMS in its folder.
    modelscope_repository: owner/name of the same weights on ModelScope, or None where none is known.
    finetuning: the settings that `dianjing train --init` writes for it.
    trained_sizes: those of the training images; at other sizes the results get worse.
    """

    name: str
    repository: str | None
    revision: str | None = None
    modelscope_repository: str | None = None
    licence: str
    download_bytes: int
    summary: str
    finetuning: FinetuneDefaults = LARGE_MODEL_FINETUNING
    trained_sizes: tuple[Size, ...] = ()

    @property
    def bundled_folder(self) -> Path | None:
        """The folder of a bundle; None for a model that is downloaded."""
        return Path(__file__).parent / self.name if self.repository is None else None


MODELS = (
    ModelInfo(
        name="sticker",
        repository=None,
        licence="Apache-2.0",
        download_bytes=0,
        summary="emoji-like objects in small scenes; Chinese and English; runs on two CPU cores",
        finetuning=STICKER_FINETUNING,
        trained_sizes=((64, 64),),
    ),
    ModelInfo(
        name="hunyuan-dit-v1.2",
        repository="Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers",
        revision="5e96094e0ad19e7f475de8711f03634ca0ccc40c",
        modelscope_repository="Xorbits/HunyuanDiT-v1.2-Diffusers",
        licence=HUNYUAN_LICENCE,
        download_bytes=14_400_000_000,
        summary="Hunyuan-DiT v1.2, 1.5 B parameters, 1024 px and more; Chinese and English",
        trained_sizes=HUNYUAN_SIZES,
    ),
    ModelInfo(
        name="hunyuan-dit-v1.2-distilled",
        repository="Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers-Distilled",
        revision="8fce45fe17e8e939c690f8846b67c856db3d631a",
        modelscope_repository="Xorbits/HunyuanDiT-v1.2-Diffusers-Distilled",
        licence=HUNYUAN_LICENCE,
        download_bytes=14_400_000_000,
        summary="Hunyuan-DiT v1.2 distilled to half the steps",
        trained_sizes=HUNYUAN_SIZES,
    ),
    ModelInfo(
        name="hunyuan-dit-v1.1",
        repository="Tencent-Hunyuan/HunyuanDiT-v1.1-Diffusers",
        revision="30711e9f2e8020815414d46e90664edd4100b256",
        licence=HUNYUAN_LICENCE,
        download_bytes=14_500_000_000,
        summary="Hunyuan-DiT v1.1, with style and image size as inputs",
        trained_sizes=HUNYUAN_SIZES,
    ),
    ModelInfo(
        name="hunyuan-dit-v1.1-distilled",
        repository="Tencent-Hunyuan/HunyuanDiT-v1.1-Diffusers-Distilled",
        modelscope_repository="AI-ModelScope/HunyuanDiT-v1.1-Diffusers-Distilled",
        licence=HUNYUAN_LICENCE,
        download_bytes=14_500_000_000,
        summary="Hunyuan-DiT v1.1 distilled to half the steps",
        trained_sizes=HUNYUAN_SIZES,
    ),
    ModelInfo(
        name="hunyuan-video-i2v",
        repository="hunyuanvideo-community/HunyuanVideo-I2V",
        licence=HUNYUAN_LICENCE,
        download_bytes=42_000_000_000,
        summary="image to video, 13 B, by diffusers; see dianjing.pipelines.video.region_animation.animate_regions",
    ),
)

_MODELS_BY_NAME = {model_info.name: model_info for model_info in MODELS}


def get_model_info(name: str) -> ModelInfo | None:
    """Return the model of this name, or None."""
    return _MODELS_BY_NAME.get(name)


def get_finetune_defaults(name: str) -> FinetuneDefaults:
    """Return the settings for fine-tuning a model; those of a large one for a model that is not registered."""
    info = get_model_info(name)
    return LARGE_MODEL_FINETUNING if info is None else info.finetuning


def suggest_model_name(name: str) -> str | None:
    """Return the registered name that is most like an unknown one, or None where none is."""
    return next(iter(difflib.get_close_matches(name, _MODELS_BY_NAME, n=1)), None)
