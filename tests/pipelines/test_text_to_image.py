"""Text to image: batches, seeds, prompts, callbacks, and arguments that are refused."""

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler

from dianjing import TextToImagePipeline
from dianjing.pipelines import denoiser
from dianjing.pipelines.media.crop import TRAINED_SIZES, get_nearest_trained_size


def make_generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def assert_close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def assert_different(a, b):
    assert (a - b).abs().max() > 1e-2


@pytest.mark.parametrize("scheduler", [None, DDPMScheduler], ids=["DDIM", "DDPM samples noise at each step"])
def test_a_seed_gives_the_same_image_whatever_the_batch(pipe, generate_latents, scheduler):
    if scheduler is not None:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    together = generate_latents(pipe, ["a cat", "red hearts", "a cat"], generator=make_generators(5, 6, 7))
    alone = [
        generate_latents(pipe, prompt, generator=make_generators(seed))
        for prompt, seed in (("a cat", 5), ("red hearts", 6))
    ]
    assert_close(together[:2], torch.cat(alone))
    assert_different(together[2], together[0])


def test_the_first_image_of_one_generator_is_the_same_in_any_batch(pipe, generate_latents):
    assert_close(generate_latents(pipe, num_images_per_prompt=3)[:1], generate_latents(pipe))


def test_images_of_one_prompt_are_adjacent(pipe, generate_latents):
    latents = generate_latents(
        pipe, ["a cat", "red hearts"], num_images_per_prompt=2, generator=make_generators(0, 1, 2, 3)
    )
    assert_close(latents[1:2], generate_latents(pipe, "a cat", generator=make_generators(1)))
    assert_close(latents[2:3], generate_latents(pipe, "red hearts", generator=make_generators(2)))


def test_latents_replace_the_generator(pipe, generate_latents):
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    assert_close(generate_latents(pipe, latents=noise), generate_latents(pipe))


def test_prompts_encoded_before_the_call_give_the_same(pipe, generate_latents):
    prompts, negative = ["a cat", "red hearts"], ["a dog", ""]
    embeds = {}
    for index, suffix in enumerate(("", "_2")):
        names = ["prompt_embeds", "negative_prompt_embeds", "prompt_attention_mask", "negative_prompt_attention_mask"]
        encoded = pipe.encode_prompt(prompts, negative_prompt=negative, text_encoder_index=index)
        embeds |= {name + suffix: tensor for name, tensor in zip(names, encoded, strict=True)}
    without = TextToImagePipeline(
        **{**pipe.components, "text_encoder": None, "tokenizer": None, "text_encoder_2": None, "tokenizer_2": None}
    )
    without.set_progress_bar_config(disable=True)
    settings = {"num_images_per_prompt": 2, "generator": make_generators(0, 1, 2, 3)}
    expected = generate_latents(pipe, prompts, negative_prompt=negative, **settings)
    settings["generator"] = make_generators(0, 1, 2, 3)
    assert_close(generate_latents(without, None, **embeds, **settings), expected)


def test_encoders_alone_make_a_pipeline_that_encodes(pipe):
    parts = {"vae": None, "transformer": None, "scheduler": None}
    encoder_pipe = TextToImagePipeline(**{**pipe.components, **parts})
    for index, length in enumerate((77, 256)):
        embeds, negative, mask, _ = encoder_pipe.encode_prompt("a cat", text_encoder_index=index)
        assert embeds.shape == negative.shape == (1, length, 32)
        assert mask.shape == (1, length)
        assert_close(embeds, pipe.encode_prompt("a cat", text_encoder_index=index)[0])


def test_all_prompts_go_through_each_encoder_in_one_batch(pipe, generate_latents):
    rows = []
    hooks = [
        encoder.register_forward_pre_hook(lambda _, ids: rows.append(len(ids[0])))
        for encoder in (pipe.text_encoder, pipe.text_encoder_2)
    ]
    generate_latents(pipe, ["a cat", "red hearts", "a cat"], negative_prompt="a dog", num_images_per_prompt=2)
    for hook in hooks:
        hook.remove()
    assert rows == [3, 3]  # a cat, red hearts, a dog: each once


def test_one_negative_prompt_applies_to_all(pipe, generate_latents):
    prompts = ["a cat", "red hearts"]
    one = generate_latents(pipe, prompts, negative_prompt="a dog", generator=make_generators(0, 1))
    assert_close(
        one, generate_latents(pipe, prompts, negative_prompt=["a dog", "a dog"], generator=make_generators(0, 1))
    )
    assert_different(one, generate_latents(pipe, prompts, generator=make_generators(0, 1)))


@pytest.mark.parametrize("scale", [0, 1, 1.0])
def test_a_guidance_scale_up_to_one_leaves_the_negative_prompt_out(pipe, generate_latents, scale):
    assert_close(
        generate_latents(pipe, guidance_scale=scale),
        generate_latents(pipe, guidance_scale=scale, negative_prompt="a dog"),
    )
    assert not pipe.do_classifier_free_guidance


def test_defaults_are_saved_with_the_folder(pipe, generate_latents, tmp_path):
    saved = TextToImagePipeline(**pipe.components, default_num_inference_steps=4, default_guidance_scale=2.5)
    saved.save_pretrained(tmp_path)
    again = TextToImagePipeline.from_pretrained(tmp_path)
    generate_latents(again, num_inference_steps=None)
    assert (again.num_timesteps, again.guidance_scale) == (4, 2.5)
    assert pipe.config.default_num_inference_steps == 50
    assert pipe.config.default_guidance_scale == 5.0


def test_every_output_type_has_the_same_image(pipe, generate_latents):
    pt, array, pil = (generate_latents(pipe, output_type=kind) for kind in ("pt", "np", "pil"))
    assert pt.shape == (1, 3, 64, 64)
    assert array.shape == (1, 64, 64, 3)
    assert pil[0].size == (64, 64)
    assert_close(pt.permute(0, 2, 3, 1), torch.from_numpy(array))
    assert pipe("a cat", num_inference_steps=1, output_type="np", return_dict=False)[1] is None


def test_height_and_width_are_pixels_of_the_image(pipe, generate_latents):
    assert generate_latents(pipe, height=32, width=80, output_type="pil")[0].size == (80, 32)


def test_a_long_schedule_is_precomputed_in_parts(pipe, generate_latents, monkeypatch):
    at_once = generate_latents(pipe, num_inference_steps=5)
    monkeypatch.setattr(denoiser, "MAX_PRECOMPUTED_STEPS", 2)
    assert_close(generate_latents(pipe, num_inference_steps=5), at_once)


def test_a_scheduler_with_scaled_latents_fits(pipe, generate_latents):
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    assert generate_latents(pipe).isfinite().all()
    assert pipe.scheduler.init_noise_sigma > 1


@pytest.mark.parametrize(
    ("size", "trained"),
    [
        ((512, 512), (1024, 1024)),
        ((1300, 1300), (1280, 1280)),
        ((1000, 1500), (960, 1280)),
        ((768, 1024), (768, 1024)),
        ((1100, 700), (1280, 768)),
        ((4000, 100), (1280, 768)),
    ],
)
def test_the_nearest_trained_size_has_the_nearest_aspect_ratio(size, trained):
    assert get_nearest_trained_size(*size) == trained


def test_every_trained_size_is_its_own_nearest():
    assert [get_nearest_trained_size(*size) for size in TRAINED_SIZES] == list(TRAINED_SIZES)


class TestSafetyChecker:
    @pytest.fixture
    def checked_pipe(self, pipe):
        class Checker(torch.nn.Module):
            device, dtype = torch.device("cpu"), torch.float32

            def forward(self, images, clip_input):
                assert clip_input.shape == (2, 3, 8, 8)
                flags = [False, True]
                return torch.where(torch.tensor(flags)[:, None, None, None], 0, images), flags

        class Extractor:
            def __call__(self, images, return_tensors):
                from transformers import BatchFeature

                return BatchFeature({"pixel_values": torch.zeros(len(images), 3, 8, 8)})

        pipe.safety_checker, pipe.feature_extractor = Checker(), Extractor()
        return pipe

    def test_a_flagged_image_is_black_and_the_others_are_not(self, checked_pipe):
        out = checked_pipe("a cat", num_images_per_prompt=2, num_inference_steps=1, output_type="np")
        assert out.nsfw_content_detected == [False, True]
        assert out.images[0].any()
        assert not out.images[1].any()


class TestBadInput:
    @pytest.fixture(autouse=True)
    def nothing_runs(self, pipe, monkeypatch):
        def run(*args, **kwargs):
            raise AssertionError("the text encoder ran")

        monkeypatch.setattr(pipe.text_encoder, "forward", run)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"prompt": ""}, "prompt is empty"),
            ({"prompt": " \n"}, "prompt is empty"),
            ({"prompt": []}, "list of 0 texts"),
            ({"prompt": ["a", ""]}, r"prompt\[1\] is empty"),
            ({"prompt": 7}, "type int"),
            ({"prompt": None}, "describe what to generate"),
            ({"prompt": "x" * 2**20}, "1,048,576 characters"),
            ({"prompt": "\ud83d"}, "surrogate"),
            ({"prompt": "a\0b"}, "control character"),
            ({"negative_prompt": ["a", "b"]}, "a list of 2 texts for 1"),
            ({"negative_prompt": "\0"}, "negative_prompt contains"),
            ({"height": 0}, "height is 0"),
            ({"width": -1}, "width is -1"),
            ({"width": 10**9}, "width is 1000000000"),
            ({"height": 100}, "not a multiple of 16.*96, 112"),
            ({"num_inference_steps": 0}, "num_inference_steps is 0"),
            ({"num_inference_steps": float("nan")}, "num_inference_steps is nan"),
            ({"num_inference_steps": "20"}, "num_inference_steps is '20'"),
            ({"guidance_scale": float("inf")}, "guidance_scale is inf"),
            ({"guidance_rescale": 1.5}, "guidance_rescale is 1.5"),
            ({"num_images_per_prompt": 10**6}, "num_images_per_prompt is 1000000"),
            ({"prompt": ["a"] * 200, "num_images_per_prompt": 2}, "400 images"),
            ({"generator": 3}, "of type int"),
            ({"generator": [torch.Generator()] * 2}, "list of 2, but 1"),
            ({"latents": torch.zeros(1, 4, 4, 4)}, r"needs \(1, 4, 8, 8\)"),
            ({"output_type": "jpg"}, "pil, np, pt, latent"),
            ({"callback_on_step_end_tensor_inputs": ["noise"]}, "latents, prompt_embeds"),
            ({"original_size": (64,)}, "original_size"),
            ({"prompt_embeds": torch.zeros(1, 77, 32)}, "both given|without"),
            ({"prompt": None, "prompt_embeds": torch.zeros(1, 77, 32)}, "without prompt_attention_mask"),
            ({"prompt_embeds_2": torch.zeros(1, 5, 32), "prompt_attention_mask_2": torch.ones(1, 5)}, "256, 32"),
        ],
        ids=lambda value: ", ".join(value) if isinstance(value, dict) else None,  # the same in every process
    )
    def test_unusable_arguments_are_refused_before_anything_runs(self, pipe, settings, message):
        with pytest.raises(ValueError, match=message):
            pipe(**{"prompt": "a cat", **settings})

    def test_a_prompt_without_encoders_is_refused(self, pipe):
        pipe.text_encoder_2 = None
        with pytest.raises(ValueError, match="no text_encoder_2; give prompt_embeds_2"):
            pipe("a cat")
