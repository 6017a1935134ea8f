"""The published video classes with tiny random weights, in diffusers' own test sizes, and with real schedulers."""

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.guiders import ClassifierFreeGuidance
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    ByT5Tokenizer,
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLTextModel,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig

SPECIAL_TOKENS = ["<pad>", "<unk>", "</s>", "<image>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
SMALL = {"intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}


def make_tokenizer(length=256):
    words = [*SPECIAL_TOKENS, "a", "red", "square", "cat", "jump", "jumps", "dog", "user", "assistant", "system"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        additional_special_tokens=SPECIAL_TOKENS[3:],
        model_max_length=length,
        chat_template=CHAT_TEMPLATE,
    )


def make_clip_text():
    return CLIPTextModel(CLIPTextConfig(hidden_size=8, vocab_size=32, eos_token_id=2, pad_token_id=0, **SMALL)).eval()


def make_hunyuan(*, condition=None):
    """HunyuanVideo; condition: how an image is taken, "latent_concat" or "token_replace", or None for text alone."""
    torch.manual_seed(0)
    concat = condition == "latent_concat"
    llama = LlamaConfig(hidden_size=16, vocab_size=32, num_key_value_heads=2, pad_token_id=0, **SMALL)
    parts = {
        "transformer": HunyuanVideoTransformer3DModel(
            in_channels=9 if concat else 4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=10,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            patch_size=1,
            patch_size_t=1,
            guidance_embeds=not concat,
            text_embed_dim=16,
            pooled_projection_dim=8,
            rope_axes_dim=(2, 4, 4),
            image_condition_type=condition,
        ).eval(),
        "vae": AutoencoderKLHunyuanVideo(
            latent_channels=4,
            down_block_types=("HunyuanVideoDownBlock3D",) * 4,
            up_block_types=("HunyuanVideoUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
        ).eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "tokenizer": make_tokenizer(),
        "tokenizer_2": make_tokenizer(77),
        "text_encoder_2": make_clip_text(),
    }
    if condition is None:
        return HunyuanVideoPipeline(**parts, text_encoder=LlamaModel(llama).eval())
    vision = CLIPVisionConfig(hidden_size=8, image_size=336, patch_size=14, **SMALL)
    llava = LlavaConfig(
        vision_config=vision, text_config=llama, image_token_index=SPECIAL_TOKENS.index("<image>"), pad_token_id=0
    )
    return HunyuanVideoImageToVideoPipeline(
        **parts,
        text_encoder=LlavaForConditionalGeneration(llava).eval(),
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=336),
    )


def make_hunyuan_15(*, takes_image):
    torch.manual_seed(0)
    qwen = Qwen2_5_VLTextConfig(
        hidden_size=16,
        vocab_size=32,
        num_key_value_heads=2,
        rope_parameters={"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e6},
        **SMALL,
    )
    parts = {
        "transformer": HunyuanVideo15Transformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            patch_size=1,
            patch_size_t=1,
            text_embed_dim=16,
            text_embed_2_dim=32,
            image_embed_dim=12,
            rope_axes_dim=(2, 2, 4),
            target_size=32,
            task_type="i2v" if takes_image else "t2v",
        ).eval(),
        "vae": AutoencoderKLHunyuanVideo15(
            latent_channels=4,
            block_out_channels=(16, 16),
            layers_per_block=1,
            spatial_compression_ratio=4,
            temporal_compression_ratio=2,
            downsample_match_channel=False,
            upsample_match_channel=False,
        ).eval(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder": Qwen2_5_VLTextModel(qwen).eval(),
        "tokenizer": make_tokenizer(1108),
        "text_encoder_2": T5EncoderModel(T5Config(d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).eval(),
        "tokenizer_2": ByT5Tokenizer(),
        "guider": ClassifierFreeGuidance(guidance_scale=6.0),
    }
    if not takes_image:
        return HunyuanVideo15Pipeline(**parts)
    siglip = SiglipVisionConfig(hidden_size=12, image_size=32, patch_size=8, **SMALL)
    return HunyuanVideo15ImageToVideoPipeline(
        **parts,
        image_encoder=SiglipVisionModel(siglip).eval(),
        feature_extractor=SiglipImageProcessorPil(size={"height": 32, "width": 32}),
    )


def make_wan_transformer(*, channels, out_channels=16, **options):
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=out_channels,
        text_dim=32,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
        **options,
    ).eval()


def make_wan(kind):
    """Wan; kind: "2.1-t2v", "2.1-i2v", "2.2-t2v", "2.2-i2v", the latter two with two experts, or "2.2-ti2v"."""
    torch.manual_seed(0)
    options = {}
    vae_options = {"z_dim": 16}
    if kind == "2.2-ti2v":
        vae_options = {
            "z_dim": 48,
            "in_channels": 12,
            "out_channels": 12,
            "is_residual": True,
            "patch_size": 2,
            "latents_mean": [0.1] * 48,
            "latents_std": [0.9] * 48,
            "scale_factor_spatial": 16,
        }
        options |= {"expand_timesteps": True}
        transformer = make_wan_transformer(channels=48, out_channels=48)
    else:
        takes_image = kind.endswith("i2v")
        channels = 36 if takes_image else 16
        encoders = {"image_dim": 4, "added_kv_proj_dim": 24} if kind == "2.1-i2v" else {}
        transformer = make_wan_transformer(channels=channels, **encoders)
        if kind.startswith("2.2"):
            options |= {"transformer_2": make_wan_transformer(channels=channels), "boundary_ratio": 0.875}
        if kind == "2.1-i2v":
            clip = CLIPVisionConfig(hidden_size=4, image_size=32, patch_size=8, **SMALL)
            options["image_encoder"] = CLIPVisionModel(clip).eval()
            options["image_processor"] = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    vae = AutoencoderKLWan(
        base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True], **vae_options
    )
    umt5 = UMT5Config(vocab_size=32, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    cls = WanImageToVideoPipeline if kind.endswith("-i2v") else WanPipeline
    return cls(
        transformer=transformer,
        vae=vae.eval(),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        text_encoder=UMT5EncoderModel(umt5).eval(),
        tokenizer=make_tokenizer(512),
        **options,
    )


PIPELINE_MAKERS = {
    "hunyuan-t2v": make_hunyuan,
    "hunyuan-i2v-concat": lambda: make_hunyuan(condition="latent_concat"),
    "hunyuan-i2v-replace": lambda: make_hunyuan(condition="token_replace"),
    "hunyuan-1.5-t2v": lambda: make_hunyuan_15(takes_image=False),
    "hunyuan-1.5-i2v": lambda: make_hunyuan_15(takes_image=True),
    **{
        f"wan-{kind}": (lambda kind=kind: make_wan(kind))
        for kind in ("2.1-t2v", "2.1-i2v", "2.2-t2v", "2.2-i2v", "2.2-ti2v")
    },
}
TEXT_MODELS = ("hunyuan-t2v", "hunyuan-1.5-t2v", "wan-2.1-t2v", "wan-2.2-t2v", "wan-2.2-ti2v")
IMAGE_MODELS = (
    "hunyuan-i2v-concat",
    "hunyuan-i2v-replace",
    "hunyuan-1.5-i2v",
    "wan-2.1-i2v",
    "wan-2.2-i2v",
    "wan-2.2-ti2v",
)
