"""What a call of TextToImagePipeline draws, and what its user can change."""

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from diffusers.callbacks import SDCFGCutoffCallback

from dianjing import TextToImagePipeline
from dianjing.pipelines import denoiser


def seeds(*numbers):
    return [torch.Generator().manual_seed(number) for number in numbers]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def differ(a, b):
    assert (a - b).abs().max() > 1e-2


@pytest.mark.parametrize("scheduler", [None, DDPMScheduler], ids=["DDIM", "DDPM draws noise at each step"])
def test_a_seed_gives_the_same_picture_whatever_the_batch(pipe, generate_latents, scheduler):
    if scheduler is not None:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    together = generate_latents(pipe, ["a cat", "red hearts", "a cat"], generator=seeds(5, 6, 7))
    alone = [
        generate_latents(pipe, prompt, generator=seeds(seed)) for prompt, seed in (("a cat", 5), ("red hearts", 6))
    ]
    close(together[:2], torch.cat(alone))
    differ(together[2], together[0])


def test_the_first_picture_of_one_generator_is_the_same_in_any_batch(pipe, generate_latents):
    close(generate_latents(pipe, num_images_per_prompt=3)[:1], generate_latents(pipe))


def test_pictures_of_one_prompt_stand_together(pipe, generate_latents):
    drawn = generate_latents(pipe, ["a cat", "red hearts"], num_images_per_prompt=2, generator=seeds(0, 1, 2, 3))
    close(drawn[1:2], generate_latents(pipe, "a cat", generator=seeds(1)))
    close(drawn[2:3], generate_latents(pipe, "red hearts", generator=seeds(2)))


def test_given_latents_take_the_place_of_the_generator(pipe, generate_latents):
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    close(generate_latents(pipe, latents=noise), generate_latents(pipe))


def test_prompts_encoded_before_draw_the_same(pipe, generate_latents):
    prompts, negative = ["a cat", "red hearts"], ["a dog", ""]
    given = {}
    for index, suffix in enumerate(("", "_2")):
        names = ["prompt_embeds", "negative_prompt_embeds", "prompt_attention_mask", "negative_prompt_attention_mask"]
        encoded = pipe.encode_prompt(prompts, negative_prompt=negative, text_encoder_index=index)
        given |= {name + suffix: tensor for name, tensor in zip(names, encoded, strict=True)}
    without = TextToImagePipeline(
        **{**pipe.components, "text_encoder": None, "tokenizer": None, "text_encoder_2": None, "tokenizer_2": None}
    )
    without.set_progress_bar_config(disable=True)
    settings = {"num_images_per_prompt": 2, "generator": seeds(0, 1, 2, 3)}
    expected = generate_latents(pipe, prompts, negative_prompt=negative, **settings)
    settings["generator"] = seeds(0, 1, 2, 3)
    close(generate_latents(without, None, **given, **settings), expected)


def test_encoders_alone_make_a_pipeline_that_reads(pipe):
    parts = {"vae": None, "transformer": None, "scheduler": None}
    reader = TextToImagePipeline(**{**pipe.components, **parts})
    for index, length in enumerate((77, 256)):
        embeds, negative, mask, _ = reader.encode_prompt("a cat", text_encoder_index=index)
        assert embeds.shape == negative.shape == (1, length, 32)
        assert mask.shape == (1, length)
        close(embeds, pipe.encode_prompt("a cat", text_encoder_index=index)[0])


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


def test_one_negative_prompt_stands_for_all(pipe, generate_latents):
    prompts = ["a cat", "red hearts"]
    one = generate_latents(pipe, prompts, negative_prompt="a dog", generator=seeds(0, 1))
    close(one, generate_latents(pipe, prompts, negative_prompt=["a dog", "a dog"], generator=seeds(0, 1)))
    differ(one, generate_latents(pipe, prompts, generator=seeds(0, 1)))


@pytest.mark.parametrize("scale", [0, 1, 1.0])
def test_a_guidance_scale_up_to_one_leaves_the_negative_prompt_out(pipe, generate_latents, scale):
    close(
        generate_latents(pipe, guidance_scale=scale),
        generate_latents(pipe, guidance_scale=scale, negative_prompt="a dog"),
    )
    assert not pipe.do_classifier_free_guidance


def test_defaults_are_kept_with_the_folder(pipe, generate_latents, tmp_path):
    own = TextToImagePipeline(**pipe.components, default_num_inference_steps=4, default_guidance_scale=2.5)
    own.save_pretrained(tmp_path)
    again = TextToImagePipeline.from_pretrained(tmp_path)
    generate_latents(again, num_inference_steps=None)
    assert (again.num_timesteps, again.guidance_scale) == (4, 2.5)
    assert pipe.config.default_num_inference_steps == 50
    assert pipe.config.default_guidance_scale == 5.0


def test_every_output_type_shows_the_same_picture(pipe, generate_latents):
    pt, array, pil = (generate_latents(pipe, output_type=kind) for kind in ("pt", "np", "pil"))
    assert pt.shape == (1, 3, 64, 64)
    assert array.shape == (1, 64, 64, 3)
    assert pil[0].size == (64, 64)
    close(pt.permute(0, 2, 3, 1), torch.from_numpy(array))
    assert pipe("a cat", num_inference_steps=1, output_type="np", return_dict=False)[1] is None


def test_height_and_width_are_pixels_of_the_picture(pipe, generate_latents):
    assert generate_latents(pipe, height=32, width=80, output_type="pil")[0].size == (80, 32)


def test_a_long_schedule_is_prepared_in_parts(pipe, generate_latents, monkeypatch):
    whole = generate_latents(pipe, num_inference_steps=5)
    monkeypatch.setattr(denoiser, "MAX_PRECOMPUTED_STEPS", 2)
    close(generate_latents(pipe, num_inference_steps=5), whole)


def test_a_scheduler_with_scaled_latents_fits(pipe, generate_latents):
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    assert generate_latents(pipe).isfinite().all()
    assert pipe.scheduler.init_noise_sigma > 1


class TestCallbacks:
    def test_a_callback_sees_each_step_and_may_replace_the_latents(self, pipe, generate_latents):
        seen = []

        def on_step_end(pipeline, step, timestep, tensors):
            assert pipeline is pipe
            assert timestep == pipe.current_timestep
            seen.append(step)
            return {"latents": torch.zeros_like(tensors["latents"])}

        assert not generate_latents(pipe, callback_on_step_end=on_step_end).any()
        assert seen == [0, 1, 2]

    @pytest.mark.parametrize("name", ["prompt_embeds", "prompt_embeds_2", "negative_prompt_embeds_2"])
    @pytest.mark.parametrize("way", ["in place", "new"])
    def test_states_that_a_callback_changes_take_effect_at_the_next_step(self, pipe, generate_latents, name, way):
        def on_step_end(pipeline, step, timestep, tensors):
            if step == 0 and way == "in place":
                tensors[name].zero_()
            elif step == 0:
                tensors[name] = torch.zeros_like(tensors[name])
            return tensors

        names = ["latents", name]
        changed = generate_latents(pipe, callback_on_step_end=on_step_end, callback_on_step_end_tensor_inputs=names)
        assert (changed - generate_latents(pipe)).abs().max() > 1e-4

    def test_a_callback_that_looks_only_changes_nothing(self, pipe, generate_latents, monkeypatch):
        counted, condition = [], pipe.transformer.compute_conditioning
        monkeypatch.setattr(
            pipe.transformer,
            "compute_conditioning",
            lambda *args, **inputs: counted.append(1) or condition(*args, **inputs),
        )
        names = ["latents", "prompt_embeds", "negative_prompt_embeds_2"]
        seen = generate_latents(
            pipe, callback_on_step_end=lambda p, s, t, k: k, callback_on_step_end_tensor_inputs=names
        )
        assert len(counted) == 1
        close(seen, generate_latents(pipe))

    def test_a_callback_can_stop_the_run(self, pipe, generate_latents):
        steps = []

        def on_step_end(pipeline, step, timestep, tensors):
            steps.append(step)
            pipeline._interrupt = step == 1
            return tensors

        generate_latents(pipe, num_inference_steps=6, callback_on_step_end=on_step_end)
        assert steps == [0, 1]

    def test_the_cutoff_callback_of_diffusers_ends_guidance(self, pipe, generate_latents):
        cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
        cut = generate_latents(pipe, callback_on_step_end=cutoff)
        differ(cut, generate_latents(pipe))
        differ(cut, generate_latents(pipe, guidance_scale=1))

    def test_guidance_may_grow_while_it_runs(self, pipe, generate_latents):
        def on_step_end(pipeline, step, timestep, tensors):
            pipeline._guidance_scale += 1
            return tensors

        generate_latents(pipe, guidance_scale=5.0, callback_on_step_end=on_step_end)
        assert pipe.guidance_scale == 8


class TestSafetyChecker:
    @pytest.fixture
    def checked(self, pipe):
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

    def test_a_flagged_picture_is_black_and_the_others_are_not(self, checked):
        out = checked("a cat", num_images_per_prompt=2, num_inference_steps=1, output_type="np")
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
            ({"negative_prompt": ["a", "b"]}, "a list of 1"),
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
    def test_what_cannot_be_drawn_is_refused_before_anything_runs(self, pipe, settings, message):
        with pytest.raises(ValueError, match=message):
            pipe(**{"prompt": "a cat", **settings})

    def test_a_prompt_without_encoders_is_refused(self, pipe):
        pipe.text_encoder_2 = None
        with pytest.raises(ValueError, match="no text_encoder_2; give prompt_embeds_2"):
            pipe("a cat")
