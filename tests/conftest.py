"""Tests never reach for a model hub."""

import os
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


ROOT = Path(__file__).parents[1]
FAST_FILES, LONGEST_FILES = (
    [ROOT / line for line in Path(__file__).with_name(name).read_text().split()] for name in ("fast.txt", "longest.txt")
)


def pytest_collection_modifyitems(config, items):
    """Mark the tests of the files in fast.txt; the files in longest.txt come first, so that none is left at the end."""
    ranks = {path: rank for rank, path in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
    for item in items:
        if item.path in FAST_FILES:
            item.add_marker("fast")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Distribute files as `--dist loadfile` does, and folders whose files share a server as one."""
    from tests.scheduling import FileScheduling

    return FileScheduling(config, log) if config.option.dist == "loadfile" else None


@pytest.fixture(autouse=True)
def denormals():
    """A run of the trainer flushes denormal numbers for its whole process; other tests do without."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture
def few_steps(monkeypatch):
    """Denoise in at most 3 steps: for code of users whose promise is what it writes, not how good its images are."""
    from dianjing.pipelines import validation

    check = validation.check_num_inference_steps
    monkeypatch.setattr(validation, "check_num_inference_steps", lambda *arguments: min(check(*arguments), 3))


@pytest.fixture(scope="session")
def make_hunyuan():
    """Build diffusers' HunyuanDiTPipeline with tiny random weights; with_size as the versions before 1.2."""

    def make(*, with_size=True):
        import torch
        from diffusers import AutoencoderKL, DDIMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
        from transformers import BertConfig, BertModel, T5Config, T5EncoderModel

        from dianjing.train.tokenizers import make_bert_tokenizer, make_t5_tokenizer

        captions = ["草地上的一只小猫", "a cat on the grass", "two red hearts to the left of a dog", "夜空下的鲸鱼"]
        tokenizer = make_bert_tokenizer(captions, model_max_length=77)
        tokenizer_2 = make_t5_tokenizer(captions, names=["小猫", "鲸鱼"], model_max_length=256)
        bert = BertConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
        t5 = T5Config(vocab_size=len(tokenizer_2), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        torch.manual_seed(0)
        pipe = HunyuanDiTPipeline(
            vae=AutoencoderKL(
                block_out_channels=(8, 8, 8, 8),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                latent_channels=4,
                norm_num_groups=4,
            ).eval(),
            text_encoder=BertModel(bert).eval(),
            tokenizer=tokenizer,
            transformer=HunyuanDiT2DModel(
                num_attention_heads=2,
                attention_head_dim=8,
                hidden_size=16,
                in_channels=4,
                patch_size=2,
                num_layers=4,
                sample_size=8,
                activation_fn="gelu-approximate",
                cross_attention_dim=32,
                cross_attention_dim_t5=32,
                pooled_projection_dim=16,
                use_style_cond_and_image_meta_size=with_size,
            ).eval(),
            scheduler=DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.03,
                beta_schedule="scaled_linear",
                prediction_type="v_prediction",
                clip_sample=False,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            text_encoder_2=T5EncoderModel(t5).eval(),
            tokenizer_2=tokenizer_2,
        )
        _amplify_text(pipe.transformer)
        return pipe

    return make


def _amplify_text(transformer):
    """Scale up the cross-attention of random weights, which would hardly depend on the prompt."""
    import torch

    with torch.no_grad():
        for block in transformer.blocks:
            block.attn2.to_out[0].weight *= 30


def _tiny_tokenizer(kind):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertTokenizerFast, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cat", "dog", "小", "猫"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls = BertTokenizerFast if kind == "bert" else PreTrainedTokenizerFast
    return cls(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", model_max_length=6)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A model folder that a command can draw from: random weights, real classes, all parts."""
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
        tokenizer=_tiny_tokenizer("bert"),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=_tiny_tokenizer("t5"),
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
def tiny_video_folder(tiny_folder, tmp_path_factory):
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


@pytest.fixture(scope="session")
def published_folder(tmp_path_factory):
    """Return the folder of a published video class with tiny random weights, by its name in tests/published.py."""
    folders = {}

    def get(name):
        if name not in folders:
            from tests.published import PIPELINE_MAKERS

            folders[name] = tmp_path_factory.mktemp("published") / name
            PIPELINE_MAKERS[name]().save_pretrained(folders[name])
        return folders[name]

    return get
