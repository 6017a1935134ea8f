"""Comparison of videos: equal ones have no fault, and each kind of fault changes its own metric."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dianjing.pipelines.media.metadata import GenerationMetadata
from dianjing.pipelines.media.video import save_video
from dianjing.train.evaluation import compare_videos
from dianjing.train.stickers import CurriculumStage, StickerWorld
from dianjing.train.stickers.clips import ObjectMotion
from dianjing.train.stickers.motions import MOTIONS

RECORD = GenerationMetadata(prompt="a", seed=0, settings={}, model="sticker", version="0")
RIGHT, LEFT = (next(i for i, motion in enumerate(MOTIONS) if motion.name == name) for name in ("right", "left"))


@pytest.fixture(scope="module")
def clip():
    world = StickerWorld(
        size_px=128, stages=[CurriculumStage(scene_weights={"single": 1.0}, grid_px=(16,), sized_share=0.0)]
    )
    clips = (world.get_controlled_clip(0, position, num_frames=8, fps=8) for position in range(400))
    return next(clip for clip in clips if clip.object_motions[0].motion == RIGHT)


def render(clip, motion, amplitude):
    return replace(clip, object_motions=(ObjectMotion(motion=motion, amplitude=amplitude),)).frames


def test_equal_videos_have_no_fault(clip):
    figures = compare_videos.compute_pair_metrics(clip.frames, clip.frames)
    assert figures["i1_mse"] == 0
    assert figures["motion_direction_cosine"] == pytest.approx(1)
    assert figures["motion_magnitude"] == figures["motion_magnitude_real"]


def test_wrong_direction_and_magnitude_are_measured(clip):
    amplitude = clip.object_motions[0].amplitude
    opposite = compare_videos.compute_pair_metrics(render(clip, LEFT, amplitude), clip.frames)
    assert opposite["motion_direction_cosine"] < 0
    weaker = compare_videos.compute_pair_metrics(render(clip, RIGHT, amplitude / 3), clip.frames)
    assert weaker["motion_direction_cosine"] > 0.8
    assert weaker["motion_magnitude"] < 0.7 * weaker["motion_magnitude_real"]


def test_another_first_frame_and_flicker_elsewhere_are_measured(clip):
    brighter = np.clip(clip.frames.astype(int) + 20, 0, 255).astype(np.uint8)
    assert compare_videos.compute_pair_metrics(brighter, clip.frames)["i1_mse"] > 100
    flickering = clip.frames.copy()
    flickering[1::2, :16] ^= 0x60  # a stripe the object does not enter
    steady, unsteady = (compare_videos.compute_pair_metrics(each, clip.frames) for each in (clip.frames, flickering))
    assert unsteady["outside_change"] > steady["outside_change"] + 0.02
    assert unsteady["temporal_flickering"] < steady["temporal_flickering"]


@pytest.fixture
def folders(tmp_path, clip):
    generated, real = tmp_path / "generated", tmp_path / "real"
    for folder, ending in ((generated, ".webp"), (real, ".mp4")):
        folder.mkdir()
        for name, motion in (("a", RIGHT), ("b", LEFT)):
            save_video(render(clip, motion, 0.5), folder / f"{name}{ending}", RECORD, fps=8, producer=None)
    return generated, real


def test_the_command_pairs_videos_by_name_and_skips_damaged_ones(folders, capsys, tmp_path):
    generated, real = folders
    (generated / "b.webp").write_bytes(b"nothing")
    compare_videos._main([str(generated), str(real), "--out", str(tmp_path / "out.json")])
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["pairs"] == 1
    assert report["motion_direction_cosine"] > 0.9
    assert "b.webp" in "".join(capsys.readouterr())


def test_folders_without_a_pair_are_refused(folders, tmp_path, capsys):
    generated, _ = folders
    unrelated = tmp_path / "unrelated"
    unrelated.mkdir()
    (unrelated / "c.mp4").write_bytes(b"")
    with pytest.raises(SystemExit) as stop:
        compare_videos._main([str(generated), str(unrelated)])
    assert stop.value.code == 2
    assert "has the name of a video in" in capsys.readouterr().err


def test_metrics_of_pretrained_models_are_added_with_their_weights(folders, clip_folder, video_folder, tmp_path):
    generated, real = folders
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps({"a": "a cat"}))
    models = ["--clip-model", str(clip_folder), "--video-model", str(video_folder), "--captions", str(captions)]
    compare_videos._main([str(generated), str(real), *models, "--out", str(tmp_path / "out.json")])
    report = json.loads((tmp_path / "out.json").read_text())
    assert -1 <= report["clip_text_alignment"] <= 1
    assert 0.9 < report["clip_temporal_consistency"] <= 1  # neighbouring frames are similar
    assert report["frechet_video_distance"] >= 0


def test_the_frechet_distance_is_computed_from_the_features(video_folder):
    """The reference uses scipy's matrix square root; the distance of a set to itself is 0."""
    from scipy.linalg import sqrtm

    from dianjing.train.evaluation.pretrained_metrics import VideoFeatureExtractor, compute_frechet_video_distance

    rng = np.random.default_rng(0)
    generated, real = (
        [rng.integers(low, low + 128, (8, 32, 32, 3), dtype=np.uint8) for _ in range(24)] for low in (0, 127)
    )
    features = VideoFeatureExtractor(str(video_folder))
    a, b = (features(torch.from_numpy(np.stack(videos))).numpy().astype(float) for videos in (generated, real))
    covariances = [np.cov(x, rowvar=False) for x in (a, b)]
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(sum(covariances) - 2 * root)
    assert compute_frechet_video_distance(generated, real, str(video_folder)) == pytest.approx(expected, rel=1e-2)
    assert compute_frechet_video_distance(generated, generated, str(video_folder)) == pytest.approx(0, abs=1e-3)


@pytest.fixture(scope="module")
def video_folder(tmp_path_factory):
    """A tiny VideoMAE with random weights."""
    from transformers import VideoMAEConfig, VideoMAEModel
    from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

    folder = tmp_path_factory.mktemp("video")
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=32,
        patch_size=16,
        num_frames=4,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    VideoMAEModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    VideoMAEImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A tiny CLIP with random weights and a tokenizer of a few words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = common | {"vocab_size": 8, "max_position_embeddings": 16, "eos_token_id": 1, "bos_token_id": 2}
    config = CLIPConfig(
        text_config=text | {"pad_token_id": 1},
        vision_config=common | {"image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    words = Tokenizer(WordLevel({"?": 0, "<eos>": 1, "<bos>": 2, "a": 3, "cat": 4}, unk_token="?"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="?", eos_token="<eos>", pad_token="<eos>", model_max_length=16
    )
    size = {"height": 32, "width": 32}
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size)
    CLIPProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(folder)
    return folder
