"""The run file of a text-to-image or text-to-video model that is trained from scratch."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dianjing.errors import DianjingError
from dianjing.train.config.base import BaseConfig, OptimizerConfig, RunConfig, TimestepSamplingConfig
from dianjing.train.config.data import DataConfig


class BertEncoderConfig(BaseConfig):
    """The architecture of the first text encoder; names are those of transformers' BertConfig."""

    hidden_size: int = 192
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    intermediate_size: int = 512


class T5EncoderConfig(BaseConfig):
    """The architecture of the second text encoder; names are those of transformers' T5Config."""

    d_model: int = 192
    num_layers: int = 3
    num_heads: int = 4
    d_kv: int = 48
    d_ff: int = 384


class TransformerConfig(BaseConfig):
    """The architecture of the DiT; names are those of its configuration."""

    num_layers: int = 8
    num_attention_heads: int = 4
    attention_head_dim: int = 64
    mlp_ratio: float = 4.0
    patch_size: int = 2
    pooled_projection_dim: int = 256
    use_motion_blocks: bool = False
    max_regions: int = Field(default=0, ge=0)  # of motion control
    # tokens that one attends to in other frames: those at its own position, or all
    temporal_attention: Literal["pixelwise", "full"] = "pixelwise"
    motion_block_interval: int = Field(default=1, ge=1)  # transformer blocks per motion block
    use_flow_field: bool = False  # predict backward flow and warp the first frame with it


class TextToImageModelConfig(BaseConfig):
    """The models of a run: a frozen autoencoder, the text encoders with their tokenizers, and the transformer."""

    vae: Path  # folder of a diffusers AutoencoderKL
    start_from: Path | None = None  # an export with the same shapes or fewer latent channels, and tokenizers
    tokenizers: Path | None = None  # folder with tokenizer/ and tokenizer_2/; None: those of start_from, or new ones
    num_tokenizer_captions: int = Field(default=40_000, gt=0)
    num_tokenizer_clips: int = Field(default=2_000, gt=0)  # whose captions and motion phrases are read as well
    text_len: int = 64
    text_len_t5: int = 64
    phrase_len: int = Field(default=12, gt=0)  # tokens of a motion phrase
    # motion: motion blocks and motion control without the flow field; flow_field: that alone; image: the transformer
    # without all of these
    trainable: Literal["all", "motion", "flow_field", "image"] = "all"
    attention_backend: str | None = None  # a name of diffusers' attention dispatcher; None: its default
    compile_full_model: bool = True  # if run.compile is set; False: block by block, within seconds instead of minutes
    bert: BertEncoderConfig = BertEncoderConfig()
    t5: T5EncoderConfig = T5EncoderConfig()
    transformer: TransformerConfig = TransformerConfig()


class TextToImageObjectiveConfig(TimestepSamplingConfig):
    """The noise schedule, the loss, and the probabilities of conditioning."""

    beta_start: float = Field(default=0.00085, gt=0)
    beta_end: float = Field(default=0.03, gt=0, lt=1)
    min_snr_gamma: float | None = Field(default=None, gt=0)
    clip_timestep_shift: float = Field(default=1.0, gt=0)  # above 1: more noise for clips, where motion is decided
    zh_probability: float = Field(default=0.5, ge=0, le=1)  # of the Chinese caption
    couple_choices: bool = False  # of images: noise decides what captions leave open, the arrangement for example
    # The latest time of scenes with random sizes and positions, which a caption and noise cannot tell
    random_placement_max_time: float = Field(default=1.0, gt=0, le=1)
    caption_dropout: float = Field(default=0.1, ge=0, le=1)  # of both encoders together, and of motion phrases
    first_frame_masking: float = Field(default=0.5, ge=0, le=1)  # of clips with motion control (Follow-Your-Click)
    clip_first_frame_probability: float = Field(default=0.3, ge=0, le=1)  # of captioned clips: condition on it
    flow_loss_weight: float = Field(default=1.0, gt=0)  # of the flow field's error in latent cells
    # of clips with motion control and first frame: have a caption
    controlled_caption_probability: float = Field(default=0.3, ge=0, le=1)


class TextToImageSamplesConfig(BaseConfig):
    """The sample grid: images, below them captioned videos, below them videos with motion control."""

    prompts: tuple[str, ...] = ()
    seed: int = 0
    num_inference_steps: int = Field(default=20, gt=0)
    guidance_scale: float = 5.0
    num_frames: int = Field(default=8, gt=1)  # of videos
    video_prompts: tuple[str, ...] = ()
    num_controlled_clips: int = Field(default=0, ge=0)


class TextToImageRunConfig(BaseConfig):
    """The run file of task "text_to_image"."""

    task: Literal["text_to_image"]
    run: RunConfig
    data: DataConfig
    optimizer: OptimizerConfig
    model: TextToImageModelConfig
    objective: TextToImageObjectiveConfig = TextToImageObjectiveConfig()
    samples: TextToImageSamplesConfig = TextToImageSamplesConfig()

    @model_validator(mode="after")
    def _check_buckets(self) -> "TextToImageRunConfig":
        transformer, kinds = self.model.transformer, {bucket.kind for bucket in self.data.buckets}
        if kinds - {"image"} and not transformer.use_motion_blocks:
            raise DianjingError("clips_without_motion_blocks")
        if "controlled" in kinds and not transformer.max_regions:
            raise DianjingError("controlled_without_regions")
        if self.model.trainable == "motion" and "image" in kinds:
            raise DianjingError("motion_with_image_bucket")
        if self.model.trainable == "image" and kinds != {"image"}:
            raise DianjingError("image_with_clip_bucket")
        if self.model.trainable == "flow_field" and not (kinds == {"controlled"} and transformer.use_flow_field):
            raise DianjingError("flow_field_buckets")
        return self
