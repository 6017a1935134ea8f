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
VIDEO_SIZES_480P: tuple[Size, ...] = ((832, 480), (480, 832))
VIDEO_SIZES_720P: tuple[Size, ...] = ((1280, 720), (720, 1280))


@dataclass(frozen=True, kw_only=True)
class FinetuneDefaults:
    """Settings under which an adapter learns a thing from about twelve images and keeps what its model knows.

    size_px: side of training images. prior_preservation: weight of the base model's predictions for its own images.
    timestep_sampling, logit_mean: the distribution of the timesteps that are trained at.
    """

    size_px: int
    total_steps: int
    batch_size: int
    learning_rate: float
    rank: int
    target_modules: tuple[str, ...]
    ema_decay: float
    prior_preservation: float
    timestep_sampling: str = "stratified"
    logit_mean: float = 0.0
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
STICKER_SIZE_PX = 128  # as the configurations in its folder say
STICKER_FINETUNING = FinetuneDefaults(  # measured by benchmarks.new_concept
    size_px=STICKER_SIZE_PX,
    total_steps=2800,
    batch_size=6,
    learning_rate=1.5e-3,
    rank=8,
    target_modules=(*ATTENTION_LAYERS, *FEED_FORWARD_LAYERS),
    ema_decay=0.99,
    prior_preservation=5.0,
    timestep_sampling="logit_normal",
    logit_mean=-0.5,
)


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model of the registry.

    repository: owner/name on the Hugging Face Hub, or None for a bundle that ships with this package. revision: commit
    there, which pins every byte; None follows the newest. A bundle is pinned by the SHA256SUMS in its folder.
    modelscope_repository: owner/name of the same weights on ModelScope, or None where none is known.
    finetuning: the settings that `dianjing train --init` writes for it.
    trained_sizes: those of the training images or videos; at other sizes the results get worse. pipeline_class: of
    diffusers, for a video model that its own pipeline runs; None for a model of this package.
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
    controlnet_prefix: str | None = None
    pipeline_class: str | None = None

    @property
    def bundled_folder(self) -> Path | None:
        """The folder of a bundle; None for a model that is downloaded."""
        return Path(__file__).parent / self.name if self.repository is None else None


CONTROLNET_SUFFIXES = {"canny": "Canny", "depth": "Depth", "pose": "Pose"}

MODELS = (
    ModelInfo(
        name="sticker",
        repository=None,
        licence="Apache-2.0",
        download_bytes=0,
        summary="emoji-like objects in small scenes; Chinese and English; runs on two CPU cores",
        finetuning=STICKER_FINETUNING,
        trained_sizes=((STICKER_SIZE_PX, STICKER_SIZE_PX),),
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
        controlnet_prefix="Tencent-Hunyuan/HunyuanDiT-v1.2-ControlNet-Diffusers-",
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
        controlnet_prefix="Tencent-Hunyuan/HunyuanDiT-v1.2-ControlNet-Diffusers-",
    ),
    ModelInfo(
        name="hunyuan-dit-v1.1",
        repository="Tencent-Hunyuan/HunyuanDiT-v1.1-Diffusers",
        revision="30711e9f2e8020815414d46e90664edd4100b256",
        licence=HUNYUAN_LICENCE,
        download_bytes=14_500_000_000,
        summary="Hunyuan-DiT v1.1, with style and image size as inputs",
        trained_sizes=HUNYUAN_SIZES,
        controlnet_prefix="Tencent-Hunyuan/HunyuanDiT-v1.1-ControlNet-Diffusers-",
    ),
    ModelInfo(
        name="hunyuan-dit-v1.1-distilled",
        repository="Tencent-Hunyuan/HunyuanDiT-v1.1-Diffusers-Distilled",
        modelscope_repository="AI-ModelScope/HunyuanDiT-v1.1-Diffusers-Distilled",
        licence=HUNYUAN_LICENCE,
        download_bytes=14_500_000_000,
        summary="Hunyuan-DiT v1.1 distilled to half the steps",
        trained_sizes=HUNYUAN_SIZES,
        controlnet_prefix="Tencent-Hunyuan/HunyuanDiT-v1.1-ControlNet-Diffusers-",
    ),
    ModelInfo(
        name="hunyuan-video",
        repository="hunyuanvideo-community/HunyuanVideo",
        revision="e8c2aaa66fe3742a32c11a6766aecbf07c56e773",
        licence=HUNYUAN_LICENCE,
        download_bytes=41_900_000_000,
        summary="text to video, 13 B, up to 5 s at 24 fps",
        trained_sizes=VIDEO_SIZES_720P,
        pipeline_class="HunyuanVideoPipeline",
    ),
    ModelInfo(
        name="hunyuan-video-i2v",
        repository="hunyuanvideo-community/HunyuanVideo-I2V",
        licence=HUNYUAN_LICENCE,
        download_bytes=42_000_000_000,
        summary="image to video, 13 B, up to 5 s at 24 fps",
        trained_sizes=VIDEO_SIZES_720P,
        pipeline_class="HunyuanVideoImageToVideoPipeline",
    ),
    ModelInfo(
        name="hunyuan-video-1.5-t2v-480p",
        repository="hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v",
        revision="286be7ce72277246578a3e3cc2487e95ddae5bcf",
        licence=HUNYUAN_LICENCE,
        download_bytes=57_300_000_000,
        summary="text to video, 8.3 B, 480p",
        trained_sizes=VIDEO_SIZES_480P,
        pipeline_class="HunyuanVideo15Pipeline",
    ),
    ModelInfo(
        name="hunyuan-video-1.5-t2v-720p",
        repository="hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-720p_t2v",
        revision="f4dbc4a1efa4ac8ea56680cdf79d9f455105e814",
        licence=HUNYUAN_LICENCE,
        download_bytes=57_300_000_000,
        summary="text to video, 8.3 B, 720p",
        trained_sizes=VIDEO_SIZES_720P,
        pipeline_class="HunyuanVideo15Pipeline",
    ),
    ModelInfo(
        name="hunyuan-video-1.5-i2v-480p",
        repository="hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_i2v",
        revision="5a700ee883ff4c1b3d887ec4188755a7a5e2f698",
        licence=HUNYUAN_LICENCE,
        download_bytes=58_200_000_000,
        summary="image to video, 8.3 B, 480p",
        trained_sizes=(),
        pipeline_class="HunyuanVideo15ImageToVideoPipeline",
    ),
    ModelInfo(
        name="wan-2.1-t2v-1.3b",
        repository="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        revision="0fad780a534b6463e45facd96134c9f345acfa5b",
        licence="Apache-2.0",
        download_bytes=28_900_000_000,
        summary="text to video, 1.3 B, 480p, 16 fps",
        trained_sizes=VIDEO_SIZES_480P,
        pipeline_class="WanPipeline",
    ),
    ModelInfo(
        name="wan-2.1-t2v-14b",
        repository="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        licence="Apache-2.0",
        download_bytes=80_400_000_000,
        summary="text to video, 14 B, 480p and 720p, 16 fps",
        trained_sizes=(*VIDEO_SIZES_480P, *VIDEO_SIZES_720P),
        pipeline_class="WanPipeline",
    ),
    ModelInfo(
        name="wan-2.1-i2v-14b-480p",
        repository="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        revision="7eb2e28a1a610bb8c3f7a056e7c1f63a0230744b",
        licence="Apache-2.0",
        download_bytes=91_300_000_000,
        summary="image to video, 14 B, 480p, 16 fps",
        trained_sizes=VIDEO_SIZES_480P,
        pipeline_class="WanImageToVideoPipeline",
    ),
    ModelInfo(
        name="wan-2.2-t2v-a14b",
        repository="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        revision="5be7df9619b54f4e2667b2755bc6a756675b5cd7",
        licence="Apache-2.0",
        download_bytes=126_200_000_000,
        summary="text to video, two experts of 14 B, 480p and 720p, 16 fps",
        trained_sizes=(*VIDEO_SIZES_480P, *VIDEO_SIZES_720P),
        pipeline_class="WanPipeline",
    ),
    ModelInfo(
        name="wan-2.2-i2v-a14b",
        repository="Wan-AI/Wan2.2-I2V-A14B-Diffusers",
        revision="596658fd9ca6b7b71d5057529bbf319ecbc61d74",
        licence="Apache-2.0",
        download_bytes=126_200_000_000,
        summary="image to video, two experts of 14 B, 480p and 720p, 16 fps",
        trained_sizes=(*VIDEO_SIZES_480P, *VIDEO_SIZES_720P),
        pipeline_class="WanImageToVideoPipeline",
    ),
    ModelInfo(
        name="wan-2.2-ti2v-5b",
        repository="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        revision="b8fff7315c768468a5333511427288870b2e9635",
        licence="Apache-2.0",
        download_bytes=34_200_000_000,
        summary="text or image to video, 5 B, 720p, 24 fps",
        trained_sizes=((1280, 704), (704, 1280)),
        pipeline_class="WanPipeline",
    ),
)

_MODELS_BY_NAME = {model_info.name: model_info for model_info in MODELS}


def get_model_info(name: str) -> ModelInfo | None:
    """Return the model of this name, or None."""
    return _MODELS_BY_NAME.get(name)


def get_controlnet_repository(model_name: str, control: str) -> str | None:
    """Return the repository of a published ControlNet, such as "canny", of a registered model, or None."""
    info, suffix = get_model_info(model_name), CONTROLNET_SUFFIXES.get(control)
    if info is None or info.controlnet_prefix is None or suffix is None:
        return None
    return f"{info.controlnet_prefix}{suffix}"


def is_bundled_folder(folder: Path) -> bool:
    """Return True for the folder of a bundle that ships with this package."""
    bundles = [model.bundled_folder for model in MODELS]
    return any(bundle is not None and bundle.resolve() == folder.resolve() for bundle in bundles)


def get_finetune_defaults(name: str) -> FinetuneDefaults:
    """Return the settings for fine-tuning a model; those of a large one for a model that is not registered."""
    info = get_model_info(name)
    return LARGE_MODEL_FINETUNING if info is None else info.finetuning


def suggest_model_name(name: str) -> str | None:
    """Return the registered name that is most like an unknown one, or None where none is."""
    return next(iter(difflib.get_close_matches(name, _MODELS_BY_NAME, n=1)), None)
