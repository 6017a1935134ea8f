"""The run file of fine-tuning."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from dianjing.errors import DianjingError
from dianjing.pipelines.control_maps import check_preprocessor
from dianjing.train.config.base import BaseConfig, OptimizerConfig, RunConfig, TimestepSamplingConfig
from dianjing.train.config.data import FinetuneDataConfig


class LoraAdapterConfig(BaseConfig):
    """An adapter of PEFT."""

    # loha, lokr: Hadamard and Kronecker products of small matrices (LyCORIS, arXiv 2309.14859)
    kind: Literal["lora", "dora", "loha", "lokr"] = "lora"
    rank: int = Field(default=16, gt=0)
    alpha: float | None = Field(default=None, gt=0)  # None: the rank
    dropout: float = Field(default=0.0, ge=0, lt=1)  # of the layer's input; of the ranks with loha and lokr
    decompose_factor: int = Field(default=-1, ge=-1)  # of lokr: the size of the first factor; -1: near the square root
    # suffixes of layer names
    target_modules: tuple[str, ...] = Field(default=("to_q", "to_k", "to_v", "to_out.0"), min_length=1)
    start_from: Path | None = None  # an adapter with the same layers, rank and alpha, whose training goes on


class FinetuneModelConfig(BaseConfig):
    """The model, and which of its weights are trained."""

    name: str  # of the registry, a diffusers folder or a Hub id
    # motion: motion blocks and motion control, which an image model lacks; controlnet: for control images
    trainable: Literal["lora", "all", "motion", "controlnet"] = "lora"
    # of a ControlNet: what makes control images for samples without one; none: every sample has one
    control_preprocessor: Literal["canny", "lineart", "tile", "depth", "pose", "none"] = "canny"
    control_preprocessor_model: str | None = None  # for depth and pose: the folder or Hub id of a model
    text_encoders: Literal["frozen", "joint"] = "frozen"  # joint: trained as well, so their states are not cached
    lora: LoraAdapterConfig = LoraAdapterConfig()
    gradient_checkpointing_interval: int = Field(default=0, ge=0)  # 0: no block, 1: every one, 2: every other one
    attention_backend: str | None = None
    compile_full_model: bool = False  # with run.compile: the whole transformer, not block by block

    @model_validator(mode="after")
    def _check(self) -> "FinetuneModelConfig":
        if self.text_encoders == "joint" and self.trainable != "all":
            raise DianjingError("joint_encoders_need_all", trainable=self.trainable)
        if self.trainable == "controlnet" and self.control_preprocessor != "none":
            check_preprocessor(self.control_preprocessor, folder=self.control_preprocessor_model)
        return self


class FinetuneObjectiveConfig(TimestepSamplingConfig):
    """The noise process, the loss, and the probabilities of conditioning."""

    prediction_type: Literal["inherit", "epsilon", "v_prediction", "flow"] = "inherit"
    flow_shift: float = Field(default=1.0, gt=0)  # of prediction_type "flow": more noise for larger images
    min_snr_gamma: float | None = Field(default=None, gt=0)
    terminal_snr: Literal["inherit", "zero"] = "inherit"
    noise_offset: float = Field(default=0.0, ge=0)  # std of noise that is constant over a channel
    zh_probability: float = Field(default=0.5, ge=0, le=1)  # of the Chinese caption, for samples that have both
    caption_dropout: float = Field(default=0.1, ge=0, le=1)  # of the first text encoder (BERT)
    caption_dropout_t5: float = Field(default=0.1, ge=0, le=1)
    clip_first_frame_probability: float = Field(default=0.3, ge=0, le=1)  # of captioned clips: condition on it
    first_frame_masking: float = Field(default=0.5, ge=0, le=1)  # of clips with motion control (Follow-Your-Click)
    # of clips with motion control and first frame: have a caption
    controlled_caption_probability: float = Field(default=0.3, ge=0, le=1)
    # weight of the base model's predictions for images of its own, which an adapter then keeps; 0: none (the class
    # images of DreamBooth, arXiv 2208.12242, with knowledge distillation)
    prior_preservation: float = Field(default=0.0, ge=0)
    prior_captions: tuple[str, ...] = ()  # of these images; empty: captions of what the model knows

    # sampling steps without guidance in which an adapter learns to do what the base model does with guidance, in
    # `distillation_teacher_steps` steps for each of them; None: it learns the training images
    distillation_steps: int | None = Field(default=None, gt=0)
    distillation_teacher_steps: int = Field(default=4, gt=0)
    # the noisy images of later steps are those that the adapter's own steps lead to, in place of noisy training images
    # (backward distillation, arXiv 2405.05224)
    distillation_own_steps: bool = False
    distillation_guidance_scale: float | None = Field(default=None, gt=1)  # None: the model's default

    @model_validator(mode="after")
    def _check(self) -> "FinetuneObjectiveConfig":
        if self.prediction_type == "flow" and (self.min_snr_gamma is not None or self.terminal_snr == "zero"):
            raise DianjingError("diffusion_settings_with_flow")
        if self.prediction_type == "epsilon" and self.terminal_snr == "zero":
            raise DianjingError("epsilon_with_zero_snr")
        return self


class FinetuneSamplesConfig(BaseConfig):
    """The prompts of the sample grid."""

    prompts: tuple[str, ...] | None = None  # None: captions of the data
    seed: int = 0
    num_inference_steps: int | None = Field(default=None, gt=0)  # None: the model's default
    guidance_scale: float | None = None  # None: the model's default


class FinetuneRunConfig(BaseConfig):
    """The run file of task "finetune"."""

    task: Literal["finetune"]
    run: RunConfig
    data: FinetuneDataConfig
    optimizer: OptimizerConfig
    model: FinetuneModelConfig
    objective: FinetuneObjectiveConfig = FinetuneObjectiveConfig()
    samples: FinetuneSamplesConfig = FinetuneSamplesConfig()

    @property
    def trains_text_encoders(self) -> bool:
        """True if the text encoders are trained, so that their states cannot be cached."""
        return self.model.text_encoders == "joint"

    @model_validator(mode="after")
    def _check_video(self) -> "FinetuneRunConfig":
        if self.model.trainable == "motion" and not self.data.num_frames:
            raise DianjingError("motion_without_videos")
        if self.model.trainable == "controlnet" and self.data.num_frames:
            raise DianjingError("controlnet_with_videos")
        return self

    @model_validator(mode="after")
    def _check_prior(self) -> "FinetuneRunConfig":
        if self.objective.prior_preservation and self.model.trainable != "lora":
            raise DianjingError("prior_needs_adapter", trainable=self.model.trainable)
        return self

    @model_validator(mode="after")
    def _check_distillation(self) -> "FinetuneRunConfig":
        if self.objective.distillation_steps is None:
            return self
        if self.model.trainable != "lora" or self.data.num_frames:
            raise DianjingError("distillation_needs_image_adapter", trainable=self.model.trainable)
        if self.objective.prior_preservation:
            raise DianjingError("distillation_with_prior")
        return self
