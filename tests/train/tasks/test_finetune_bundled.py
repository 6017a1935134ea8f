"""The run file that --init writes, with the bundled model, which is in half precision and generates videos."""

import pytest
import torch
from peft.utils import get_peft_model_state_dict
from PIL import Image

from dianjing.dit import DiT
from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import save_video
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.train.cli import main
from dianjing.train.config.run_file import read_run_config
from dianjing.train.data.preparation import index_datasets, warn_about_size
from dianjing.train.export import export_adapter
from dianjing.train.stickers import StickerWorld
from dianjing.train.tasks.finetune_build import find_trigger_words
from dianjing.train.tasks.finetune_model import MOTION_PREFIXES, prepare_transformer
from dianjing.weights.resolve import resolve_model

SIZE_PX, FRAMES = 128, 8
PRIOR_CAPTIONS = 'objective.prior_captions=["a cat on the grass", "海上的红色气球"]'  # the default are hundreds
RECORD = GenerationMetadata(prompt="a", seed=0, settings={}, model="sticker", version="0")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images and videos of the sticker world with captions."""
    folder = tmp_path_factory.mktemp("data")
    world = StickerWorld(size_px=SIZE_PX)
    for index in range(4):
        sample, clip = world.get_image_sample(0, index), world.get_captioned_clip(0, index, num_frames=FRAMES, fps=8)
        Image.fromarray(sample.image).save(folder / f"{index}.png")
        save_video(clip.frames, folder / f"f{index}.webp", RECORD, fps=8, producer=None)
        for name, text in ((f"{index}.zh.txt", sample.text_zh), (f"f{index}.en.txt", clip.text_en)):
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def write_run_file(tmp_path, data, *changes):
    """The path of a new run file, and overrides for the command line."""
    path = tmp_path / "style.toml"
    assert main([str(path), "--init"]) == 0
    (tmp_path / "datasets.toml").write_text(f'[[datasets]]\npath = "{data}"\n')
    settings = (
        f"run.folder={tmp_path / 'run'}",
        f"data.cache_folder={tmp_path / 'cache'}",
        "samples.num_inference_steps=1",
        "run.batch_size=2",
        *changes,
    )
    return path, [part for setting in settings for part in ("--set", setting)]


@pytest.mark.parametrize(
    "changes",
    [
        ("data.max_rejected_fraction=0.5", PRIOR_CAPTIONS),
        (
            "data.max_rejected_fraction=0.5",
            "model.trainable=all",
            "model.text_encoders=joint",
            "objective.prior_preservation=0",
        ),
        (f"data.num_frames=[{FRAMES}]", "model.trainable=all", "objective.prior_preservation=0"),
        (f"data.num_frames=[{FRAMES}]", PRIOR_CAPTIONS),
    ],
    ids=["lora", "joint", "video", "lora on video"],
)
def test_it_fits_in_memory_and_resumes_exactly(tmp_path, data, capsys, changes):
    path, settings = write_run_file(tmp_path, data, *changes)
    assert main([str(path), *settings, "--dry-run"]) == 0
    assert "this fits" in capsys.readouterr().out
    assert main(["verify-resume", str(path), *settings]) == 0
    assert "resuming is exact" in capsys.readouterr().out


@pytest.mark.parametrize(("size_px", "is_announced"), [(64, True), (96, False), (128, False)])
def test_a_size_of_half_the_models_or_less_is_announced(tmp_path, data, capsys, size_px, is_announced):
    path, _ = write_run_file(tmp_path, data)
    capsys.readouterr()
    warn_about_size(read_run_config(path, [f"data.size_px={size_px}"]), resolve_model("sticker"))
    assert ("set size_px = 128" in capsys.readouterr().out) is is_announced


def test_adapter_for_images_has_no_motion_weights_and_loads_without_a_warning(tmp_path, data, recwarn):
    path, _ = write_run_file(tmp_path, data)
    for has_video in (False, True):
        transformer = DiT.from_pretrained(resolve_model("sticker") / "transformer")
        adapted = prepare_transformer(transformer, read_run_config(path).model, has_video=has_video)
        names = get_peft_model_state_dict(adapted).keys()
        assert any(name.startswith(MOTION_PREFIXES) for name in names) is has_video
        pipe = TextToImagePipeline.from_pretrained("sticker")
        export_adapter(tmp_path / "adapter", torch.float32, transformer=adapted, scheduler=pipe.scheduler)
        pipe.load_lora_weights(tmp_path / "adapter")
        assert get_peft_model_state_dict(pipe.transformer, adapter_name="default_0").keys() == names
    assert not [str(each.message) for each in recwarn if "modules" in str(each.message)]


def test_an_adapter_runs_in_the_steps_of_the_model_that_it_was_trained_on(tmp_path):
    """Not in those of the model's own adapter, which was trained without it."""
    base = resolve_model("sticker")
    transformer = DiT.from_pretrained(base / "transformer")
    path, _ = write_run_file(tmp_path, tmp_path)
    adapted = prepare_transformer(transformer, read_run_config(path).model, has_video=False)
    pipe = TextToImagePipeline.from_pretrained("sticker")
    pipe.set_progress_bar_config(disable=True)
    export_adapter(tmp_path / "adapter", torch.float32, transformer=adapted, scheduler=pipe.scheduler)
    settings = {"output_type": "latent"}
    slow, few = (
        pipe("a cat", **sampling, **settings | {"generator": torch.Generator().manual_seed(1)}).images
        for sampling in ({"slow": True}, {})
    )
    pipe.load_lora_weights(tmp_path / "adapter")  # as it was initialized, it changes nothing
    adapted_images = pipe("a cat", **settings | {"generator": torch.Generator().manual_seed(1)}).images
    torch.testing.assert_close(adapted_images, slow, atol=1e-4, rtol=1e-4)
    assert (slow - few).abs().max() > 0.1


def test_words_of_an_adapter_are_no_longer_called_unknown(tmp_path):
    transformer = DiT.from_pretrained(resolve_model("sticker") / "transformer")
    path, _ = write_run_file(tmp_path, tmp_path)
    adapted = prepare_transformer(transformer, read_run_config(path).model, has_video=False)
    pipe = TextToImagePipeline.from_pretrained("sticker")
    words = ["momo", "毛毛"]
    export_adapter(
        tmp_path / "adapter", torch.float32, transformer=adapted, scheduler=pipe.scheduler, trigger_words=words
    )
    prompts = ("a momo on the grass", "草地上的一只毛毛", "a zzz and a momo")
    assert [pipe.find_unknown_words(prompt) for prompt in prompts] == [["momo"], ["毛毛"], ["zzz", "momo"]]
    pipe.load_lora_weights(tmp_path / "adapter")
    assert [pipe.find_unknown_words(prompt) for prompt in prompts] == [[], [], ["zzz"]]
    assert TextToImagePipeline.from_pipe(pipe).find_unknown_words(prompts[0]) == []
    pipe.unload_lora_weights()
    assert pipe.find_unknown_words(prompts[0]) == ["momo"]


def test_trigger_words_are_those_of_the_captions_and_of_the_data_sets(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a momo on the grass", encoding="utf-8")
    path, _ = write_run_file(tmp_path, tmp_path)
    (tmp_path / "datasets.toml").write_text(f'[[datasets]]\npath = "{tmp_path}"\ntrigger_word = "sks"\n')
    config = read_run_config(path)
    folder = resolve_model("sticker")
    assert find_trigger_words(config, folder, index_datasets(config, folder)) == ["sks", "momo"]
