"""The bundle of a video model's export: its vocabularies and defaults agree with the sticker world."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, SASolverScheduler
from safetensors.torch import load_file, save_file

from dianjing import ImageToVideoPipeline, TextToImagePipeline, TextToVideoPipeline
from dianjing.pipelines.prompting.vocabulary import Vocabulary
from dianjing.train.data.latent_pairs import LatentPairs, read_latent_pairs, write_latent_pairs
from dianjing.train.evaluation.few_steps import PairedResult, summarize_pairs
from dianjing.train.recipes import sticker
from dianjing.train.recipes.bundle import INFERENCE_STEPS, add_default_adapter, build_bundle, measure_motion_vocabulary
from dianjing.train.recipes.bundle_card import _describe_sampling, _describe_small_objects, _format_few_steps_section
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.captions import list_caption_words, list_motion_words, make_concept_vocabulary
from dianjing.train.stickers.motions import MOTIONS
from dianjing.weights.adapter_sampling import read_adapter_sampling
from dianjing.weights.checksums import verify_checksums

WORLD = StickerWorld(size_px=64, stages=[CurriculumStage(scene_weights={"single": 0.5, "pair": 0.5}, grid_px=(16,))])


@pytest.fixture(scope="module")
def bundle(make_hunyuan, tmp_path_factory):
    from dianjing import DiT

    folder = tmp_path_factory.mktemp("recipe")
    make_hunyuan(with_size=False).save_pretrained(folder / "export")
    video_model = DiT.from_pretrained(folder / "export" / "transformer", use_motion_blocks=True, max_regions=3)
    video_model.save_pretrained(folder / "export" / "transformer")
    (folder / "bundle").mkdir()
    (folder / "bundle" / "stale.txt").write_text("part of an older bundle")
    build_bundle(folder / "export", folder / "bundle")
    return folder / "bundle"


def test_all_three_pipelines_load_the_bundle_with_its_defaults(bundle):
    assert TextToImagePipeline.from_pretrained(bundle).config.default_num_inference_steps == INFERENCE_STEPS
    for cls in (TextToVideoPipeline, ImageToVideoPipeline):
        pipe = cls.from_pretrained(bundle)
        assert (pipe.config.default_num_frames, pipe.config.default_fps) == (9, 8.0)
        assert {motion.name for motion in pipe.motion_vocabulary.motions} == {motion.name for motion in MOTIONS}
    assert not (bundle / "stale.txt").exists()


def test_its_vocabulary_knows_every_word_of_a_clip(bundle):
    vocabulary = Vocabulary.from_file(bundle / "vocabulary.json")
    for position in range(200):
        clip = WORLD.get_captioned_clip(0, position, num_frames=2, fps=8)
        assert vocabulary.find_unknown_words(clip.text_en) == [], clip.text_en
        assert vocabulary.find_unknown_words(clip.text_zh) == [], clip.text_zh
    assert vocabulary.find_unknown_words("a cat somersaulting") == ["somersaulting"]


def test_its_concepts_are_those_of_the_world(bundle):
    assert TextToImagePipeline.from_pretrained(bundle).concept_vocabulary == make_concept_vocabulary()


def test_a_bundle_of_an_image_model_has_no_motions(make_hunyuan, tmp_path):
    make_hunyuan(with_size=False).save_pretrained(tmp_path / "export")
    build_bundle(tmp_path / "export", tmp_path / "bundle")
    words = json.loads((tmp_path / "bundle" / "vocabulary.json").read_text())
    assert set(words["en"]) == set(list_caption_words()["en"])
    assert not set(list_motion_words()["en"]) <= set(words["en"])
    assert not (tmp_path / "bundle" / "motions.json").exists()


def test_every_run_takes_the_latents_that_the_shipped_decoder_decodes(monkeypatch, tmp_path):
    """Or the first of their channels: those of the autoencoder of 64 px, which all later encoders keep."""
    commands, averaged = {}, []
    monkeypatch.setattr(sticker, "average_models", lambda folders, output: averaged.append((folders, output)))
    for name in sticker.TRAINING_RUNS:
        launched = []
        monkeypatch.setattr(sticker.subprocess, "run", lambda command, launched=launched, **_: launched.append(command))
        sticker.run_training(name, tmp_path, processes=1)
        commands[name] = launched
    settings = {
        name: dict(part.split("=") for part in launched[-1] if "=" in part) for name, launched in commands.items()
    }

    def export(run: str, part: str = "") -> str:
        return str(tmp_path / run / "export" / part)

    encoders = {name: each.get("model.encoder_from") for name, each in settings.items()}
    assert {name: each for name, each in encoders.items() if each} == {
        "decoder": export("sticker-vae", "vae"),
        "sharp_decoder": export("sticker-vae", "vae"),
        "wide_decoder": export("sticker-decoder-sharp", "vae"),
    }
    vaes = {name: each["model.vae"] for name, each in settings.items() if "model.vae" in each}
    assert vaes == {
        **dict.fromkeys(("text_to_image", "refine", "canonical"), export("sticker-vae", "vae")),
        **dict.fromkeys(("wide", "coupled", "contrast", "flow_field", "motion"), export("sticker-decoder-wide", "vae")),
    }
    bases = {name: each.get("model.start_from") for name, each in settings.items()}
    assert bases["contrast"] == export("sticker-coupled").rstrip("/")
    image_models = [Path(export(each)) for each in ("sticker-coupled", "sticker-contrast")]
    assert averaged == [(image_models, Path(bases["flow_field"]))]
    assert settings["generated_decoder"]["model.start_from"] == export("sticker-decoder-wide", "vae")
    write_latents = commands["generated_decoder"][0]
    assert write_latents[write_latents.index("--model") + 1] == export("sticker-coupled")
    assert settings["generated_decoder"]["objective.latent_pairs"] in write_latents


def test_the_adapter_for_few_steps_is_the_mean_of_those_of_both_image_models(make_hunyuan, tmp_path, monkeypatch):
    make_hunyuan(with_size=False).save_pretrained(tmp_path / "export")
    runs, bundle = tmp_path / "runs", tmp_path / "bundle"
    build_bundle(tmp_path / "export", bundle)
    monkeypatch.setattr(sticker, "NUM_FEW_STEPS_SCENES", 2)
    commands = []

    def run(command, **_):
        commands.append(dict(part.split("=") for part in command if "=" in part))
        export = Path(commands[-1]["run.folder"]) / "export"
        export.mkdir(parents=True)
        factor = torch.full((1, 1), float(len(commands)))
        save_file({"a.lora_A.weight": torch.ones(1, 1), "a.lora_B.weight": factor}, export / "adapter.safetensors")

    monkeypatch.setattr(sticker.subprocess, "run", run)
    sticker.train_few_steps(bundle, runs, processes=1)
    first = str(runs / "sticker-few-steps" / "export")
    assert [each.get("model.lora.start_from") for each in commands] == [None, first]
    models = [str(runs / name / "export") for name in ("sticker-coupled", "sticker-contrast")]
    assert [each["model.name"] for each in commands] == models
    assert {each["objective.distillation_guidance_scale"] for each in commands} == {"2.0"}, "exports name none"
    shipped = load_file(bundle / "few_steps" / "adapter.safetensors")
    torch.testing.assert_close(shipped["a.lora_A.weight"] * shipped["a.lora_B.weight"], torch.full((1, 1), 1.5))
    sampling = read_adapter_sampling(bundle / "few_steps")
    assert (sampling.num_inference_steps, sampling.guidance_scale) == (6, 1.0)
    assert verify_checksums(bundle) == []


def test_the_last_decoders_are_trained_on_what_the_bundle_generates_and_the_last_becomes_its_decoder(
    make_hunyuan, tmp_path, monkeypatch
):
    make_hunyuan(with_size=False).save_pretrained(tmp_path / "export")
    runs, bundle = tmp_path / "runs", tmp_path / "bundle"
    build_bundle(tmp_path / "export", bundle)
    vae = AutoencoderKL.from_pretrained(bundle / "vae")
    scaling_factor = vae.config.scaling_factor
    commands = []

    def run(command, **_):
        commands.append(command)
        if "dianjing.train.recipes.generated_latents" in command:
            images, masks = torch.zeros(2, 16, 16, 3, dtype=torch.uint8), torch.zeros(2, 16, 16, dtype=torch.bool)
            write_latent_pairs(Path(command[3]), LatentPairs(torch.randn(2, 4, 8, 8), images, masks))
        elif "sticker_decoder_objects_edges.toml" in command[3]:
            torch.nn.init.constant_(vae.decoder.conv_out.bias, 0.25)
            vae.register_to_config(scaling_factor=2 * scaling_factor)
            vae.save_pretrained(runs / "sticker-decoder-objects-edges" / "export" / "vae")

    monkeypatch.setattr(sticker.subprocess, "run", run)
    sticker.train_last_decoders(bundle, runs, processes=1)
    trained = [dict(part.split("=") for part in command if "=" in part) for command in commands[-5:]]
    stages = ("ssim", "crisp", "objects", "objects-crisp")
    assert [each["model.start_from"] for each in trained] == [
        str(runs / "sticker-decoder-averaged"),
        *(str(runs / f"sticker-decoder-{stage}" / "export" / "vae") for stage in stages),
    ]
    assert len({each["objective.latent_pairs"] for each in trained}) == 1
    assert [command[command.index("--model") + 1] for command in commands[:-5]] == [
        str(bundle),
        str(runs / "sticker-coupled" / "export"),
    ]
    pairs = read_latent_pairs(
        Path(trained[0]["objective.latent_pairs"]), latent_shape=(4, 8, 8), image_shape=(16, 16, 3)
    )
    assert len(pairs.latents) == 4
    assert verify_checksums(bundle) == []
    shipped = AutoencoderKL.from_pretrained(bundle / "vae")
    assert (shipped.decoder.conv_out.bias == 0.25).all()
    assert shipped.config.scaling_factor == scaling_factor


def test_the_last_segmenter_is_trained_on_images_of_a_decoder(make_hunyuan, tmp_path, monkeypatch):
    make_hunyuan(with_size=False).save_pretrained(tmp_path / "export")
    runs, bundle = tmp_path / "runs", tmp_path / "bundle"
    first, last = (runs / folder / "export" for folder in ("sticker-segmenter", "sticker-segmenter-reconstructed"))
    for folder in (first, last):
        (folder / "segmenter").mkdir(parents=True)
        (folder / "segmenter" / "config.json").write_text(json.dumps({"of": folder.parent.name}))
    build_bundle(tmp_path / "export", bundle, segmenter=first / "segmenter")
    commands = []
    monkeypatch.setattr(sticker.subprocess, "run", lambda command, **_: commands.append(command))
    sticker.train_last_segmenter(bundle, runs, processes=1)
    settings = dict(part.split("=") for part in commands[0] if "=" in part)
    assert settings["objective.vae"] == str(runs / "sticker-decoder-crisp" / "export" / "vae")
    assert settings["model.start_from"] == str(first / "segmenter")
    assert json.loads((bundle / "segmenter" / "config.json").read_text()) == {"of": last.parent.name}
    assert verify_checksums(bundle) == []


def test_another_autoencoder_takes_the_place_of_the_exports_with_its_scale(make_hunyuan, tmp_path):
    pipe = make_hunyuan(with_size=False)
    pipe.vae.register_to_config(scaling_factor=0.9)
    pipe.save_pretrained(tmp_path / "export")
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 5, "up_block_types": ("UpDecoderBlock2D",) * 5}
    vae = AutoencoderKL(block_out_channels=(8,) * 5, latent_channels=4, norm_num_groups=4, scaling_factor=0.7, **levels)
    vae.save_pretrained(tmp_path / "decoder")
    build_bundle(tmp_path / "export", tmp_path / "bundle", vae=tmp_path / "decoder")
    loaded = TextToImagePipeline.from_pretrained(tmp_path / "bundle")
    assert loaded.default_size_px == 2 * pipe.transformer.config.sample_size * pipe.vae_scale_factor
    assert loaded.vae.config.scaling_factor == 0.9
    assert all(map(torch.equal, loaded.vae.state_dict().values(), vae.state_dict().values()))


def test_its_scheduler_may_be_swapped_for_one_whose_defaults_differ(bundle):
    """Not all of them know the defaults of the class before, such as dpmsolver++."""
    pipe = TextToImagePipeline.from_pretrained(bundle)
    swapped = SASolverScheduler.from_config(pipe.scheduler.config)
    assert swapped.config.algorithm_type == "data_prediction"
    assert swapped.config.beta_end == pipe.scheduler.config.beta_end


def test_full_strength_has_the_speed_of_full_amplitude():
    """Measured with a motion that does not deform its object; half the strength is half the amplitude."""
    motions = measure_motion_vocabulary(size_px=64)
    motion_index = next(index for index, motion in enumerate(MOTIONS) if motion.name == "left")
    clip = next(
        clip
        for clip in (WORLD.get_controlled_clip(1, position, num_frames=8, fps=8) for position in range(500))
        if clip.object_motions[0] is not None and clip.object_motions[0].motion == motion_index
    )
    for amplitude in (0.5, 1.0):
        moving = replace(
            clip, object_motions=(replace(clip.object_motions[0], amplitude=amplitude), *clip.object_motions[1:])
        )
        assert motions.get_speed("go left", amplitude) == pytest.approx(moving.strengths[0], rel=0.1)


def test_an_adapter_for_few_steps_becomes_the_default_of_a_bundle_until_it_is_built_anew(make_hunyuan, tmp_path):
    from tests.pipelines.few_steps_models import SAMPLING, write_few_steps

    make_hunyuan(with_size=False).save_pretrained(tmp_path / "export")
    bundle = tmp_path / "bundle"
    build_bundle(tmp_path / "export", bundle)
    write_few_steps(tmp_path / "adapter", bundle)
    (tmp_path / "adapter" / "README.md").write_text("the card of the adapter")
    add_default_adapter(tmp_path / "adapter", bundle)
    assert verify_checksums(bundle) == []
    adapter = TextToImagePipeline.from_pretrained(bundle).default_adapter
    assert (adapter.name, adapter.sampling) == ("few_steps", SAMPLING)
    assert not (bundle / "few_steps" / "README.md").exists()
    index = json.loads((bundle / "model_index.json").read_text())
    assert "2 steps\nwithout guidance, by the adapter in `few_steps/`" in _describe_sampling(bundle, index)
    build_bundle(tmp_path / "export", bundle)
    assert TextToImagePipeline.from_pretrained(bundle).default_adapter is None
    assert verify_checksums(bundle) == []


def test_the_few_steps_section_of_the_card_has_the_figures_of_its_report():
    rows = [("single_object", "zh", True, False, True), ("single_object", "en", False, True, True)]
    report = summarize_pairs([PairedResult(*row) for row in rows]) | {"timing": {"times_as_fast": 3.26}}
    section = _format_few_steps_section(report)
    assert "which takes 3.3 times as long" in section
    assert "few_steps --model sticker --count 1\n" in section
    assert "| single object (2) | 50.0 | 100.0 |" in section
    assert "| objects that the prompt calls small (1) | 0.0 | 100.0 |" in section
    assert "| English (1) | 100.0 | 100.0 |" in section
    assert _describe_small_objects(report) == ": 0.0 % of 1 are right"
