"""Text to image."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dianjing.train.config.base import BaseConfig, OptimizerConfig, RunConfig, TimestepSamplingConfig
from dianjing.train.config.data import DataConfig


class BertEncoderConfig(BaseConfig):
    hidden_size: int = 192
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    intermediate_size: int = 512


class T5EncoderConfig(BaseConfig):
    d_model: int = 192
    num_layers: int = 3
    num_heads: int = 4
    d_kv: int = 48
    d_ff: int = 384


class TransformerConfig(BaseConfig):
    num_layers: int = 8
    num_attention_heads: int = 4
    attention_head_dim: int = 64
    mlp_ratio: float = 4.0
    patch_size: int = 2
    pooled_projection_dim: int = 256
    use_motion_blocks: bool = False
    max_regions: int = Field(default=0, ge=0)  # that can be clicked on at once
    temporal_attention: Literal["pixelwise", "full"] = "pixelwise"  # how far a place sees over time
    motion_block_interval: int = Field(default=1, ge=1)  # layers to each motion block
    use_flow_field: bool = False  # clicks move the first frame itself


class TextToImageModelConfig(BaseConfig):
    vae: Path  # a diffusers AutoencoderKL folder; frozen
    start_from: Path | None = None  # an export of the same shape, tokenizers included; None: from scratch
    tokenizers: Path | None = None  # holds tokenizer/ and tokenizer_2/; None: start_from's, or new ones
    num_tokenizer_captions: int = Field(default=40_000, gt=0)
    text_len: int = 64
    text_len_t5: int = 64
    phrase_len: int = Field(default=12, gt=0)  # tokens of a motion phrase
    # film: motion blocks and clicks, but for the motion field; field: that alone; pictures: the transformer's rest
    trainable: Literal["all", "motion", "flow_field", "image"] = "all"
    attention_backend: str | None = None  # a name diffusers' dispatcher knows; None: its default
    bert: BertEncoderConfig = BertEncoderConfig()
    t5: T5EncoderConfig = T5EncoderConfig()
    transformer: TransformerConfig = TransformerConfig()


class TextToImageObjectiveConfig(TimestepSamplingConfig):
    beta_start: float = Field(default=0.00085, gt=0)
    beta_end: float = Field(default=0.03, gt=0, lt=1)
    min_snr_gamma: float | None = Field(default=None, gt=0)
    clip_timestep_shift: float = Field(
        default=1.0, gt=0
    )  # of timesteps of clips: more noise, where it is decided what moves
    zh_probability: float = Field(default=0.5, ge=0, le=1)  # share of Chinese captions
    caption_dropout: float = Field(default=0.1, ge=0, le=1)  # both encoders together, motion phrases too
    first_frame_masking: float = Field(default=0.5, ge=0, le=1)  # share of clicks that hide it (Follow-Your-Click)
    clip_first_frame_probability: float = Field(default=0.3, ge=0, le=1)  # share of clips that show their first frame
    flow_loss_weight: float = Field(
        default=1.0, gt=0
    )  # weight of a motion field's error, in latents, where it is trained
    controlled_caption_probability: float = Field(
        default=0.3, ge=0, le=1
    )  # share of clicks with the first frame that have one


class TextToImageSamplesConfig(BaseConfig):
    prompts: tuple[str, ...] = ()
    seed: int = 0
    num_inference_steps: int = Field(default=20, gt=0)
    guidance_scale: float = 5.0
    num_frames: int = Field(default=8, gt=1)  # of films and clicks
    video_prompts: tuple[str, ...] = ()  # prompts of clips, drawn below the pictures
    num_controlled_clips: int = Field(default=0, ge=0)  # clips from clicks, drawn below


class TextToImageRunConfig(BaseConfig):
    task: Literal["text_to_image"]
    run: RunConfig
    data: DataConfig
    optimizer: OptimizerConfig
    model: TextToImageModelConfig
    objective: TextToImageObjectiveConfig = TextToImageObjectiveConfig()
    samples: TextToImageSamplesConfig = TextToImageSamplesConfig()

    @model_validator(mode="after")
    def _check_buckets(self) -> "TextToImageRunConfig":
        shape, kinds = self.model.transformer, {bucket.kind for bucket in self.data.buckets}
        if kinds - {"image"} and not shape.use_motion_blocks:
            raise ValueError("buckets of clips need model.transformer.use_motion_blocks = true")
        if "controlled" in kinds and not shape.max_regions:
            raise ValueError("a bucket of clicks needs model.transformer.max_regions")
        if self.model.trainable == "motion" and "image" in kinds:
            raise ValueError('model.trainable = "motion" with a bucket of pictures, which would train nothing')
        if self.model.trainable == "image" and kinds != {"image"}:
            raise ValueError('model.trainable = "image" needs buckets of pictures alone')
        if self.model.trainable == "flow_field" and not (kinds == {"controlled"} and shape.use_flow_field):
            raise ValueError(
                'model.trainable = "flow_field" takes buckets of clicks alone, and transformer.use_flow_field'
            )
        return self
