"""A tiny model folder that a command can draw from: random weights, real classes, all parts."""

import pytest


def tiny_tokenizer(kind):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertTokenizerFast, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cat", "dog", "小", "猫"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls = BertTokenizerFast if kind == "bert" else PreTrainedTokenizerFast
    return cls(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", model_max_length=6)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler
    from transformers import BertConfig, BertModel, T5Config, T5EncoderModel

    from dianjing import DiT, TextToImagePipeline

    torch.manual_seed(0)
    bert = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=8)
    t5 = T5Config(d_model=16, d_kv=8, num_layers=1, d_ff=8, num_heads=2, vocab_size=8)
    pipe = TextToImagePipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=4,
        ),
        text_encoder=BertModel(bert),
        tokenizer=tiny_tokenizer("bert"),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=tiny_tokenizer("t5"),
        transformer=DiT(
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=3,
            sample_size=4,
            cross_attention_dim=16,
            cross_attention_dim_t5=16,
            pooled_projection_dim=16,
            text_len=6,
            text_len_t5=6,
            learn_sigma=False,
            use_style_cond_and_image_meta_size=False,
        ),
        scheduler=DDIMScheduler(prediction_type="v_prediction"),
        default_num_inference_steps=2,
        default_guidance_scale=3.0,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_film_folder(tiny_folder, tmp_path_factory):
    """The same with motion blocks and clicks, of random weights."""
    import torch

    from dianjing import DiT, TextToImagePipeline, TextToVideoPipeline

    parts = TextToImagePipeline.from_pretrained(tiny_folder).components
    transformer = DiT.from_pretrained(tiny_folder / "transformer", use_motion_blocks=True, max_regions=2)
    for block in transformer.motion_blocks:
        torch.nn.init.normal_(block.attn1.to_out[0].weight, std=0.3)
    optional = ("safety_checker", "feature_extractor")
    parts = {name: part for name, part in parts.items() if name not in optional} | {"transformer": transformer}
    pipe = TextToVideoPipeline(**parts, default_num_inference_steps=2, default_guidance_scale=3.0, default_num_frames=4)
    folder = tmp_path_factory.mktemp("models") / "film"
    pipe.save_pretrained(folder)
    return folder
