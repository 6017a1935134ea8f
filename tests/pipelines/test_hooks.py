"""Public hooks of the pipelines: who watches a run, who steers it, and who shares its components."""

import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback

from dianjing.errors import DianjingError
from dianjing.pipelines.image_to_video import ImageToVideoPipeline
from dianjing.pipelines.prompting.motions import MotionConcept, MotionVocabulary
from dianjing.pipelines.prompting.vocabulary import Vocabulary
from dianjing.pipelines.text_to_image import TextToImagePipeline
from dianjing.pipelines.text_to_video import TextToVideoPipeline
from dianjing.pipelines.video.windows import plan_text_to_video_runs


@pytest.fixture
def video_pipe(video_folder):
    pipe = TextToVideoPipeline.from_pretrained(video_folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_an_observer_gets_every_step_with_its_latents(pipe, generate_latents):
    steps = []
    with pipe.observe_steps(steps.append):
        latents = generate_latents(pipe, num_inference_steps=4)
    assert [(step.index, step.num_steps) for step in steps] == [(index, 4) for index in range(4)]
    assert torch.equal(steps[-1].latents, latents)
    assert [int(step.timestep) for step in steps] == pipe.scheduler.timesteps.tolist()
    generate_latents(pipe)
    assert len(steps) == 4, "observed outside the block"


def test_an_observer_sees_what_a_callback_put_back(pipe, generate_latents):
    steps = []
    with pipe.observe_steps(steps.append):
        generate_latents(pipe, callback_on_step_end=lambda *args: {"latents": torch.zeros_like(args[3]["latents"])})
    assert not any(step.latents.any() for step in steps)


def test_an_observer_ends_a_call_by_an_exception_and_is_gone_then(pipe, generate_latents):
    def cancel(step):
        raise TimeoutError

    with pytest.raises(TimeoutError), pipe.observe_steps(cancel):
        generate_latents(pipe)
    assert generate_latents(pipe).isfinite().all()


def test_two_observers_are_independent(pipe, generate_latents):
    outer, inner = [], []
    with pipe.observe_steps(outer.append):
        with pipe.observe_steps(inner.append):
            generate_latents(pipe, num_inference_steps=2)
        generate_latents(pipe, num_inference_steps=2)
    assert (len(outer), len(inner)) == (4, 2)


@pytest.mark.parametrize(("long_video", "num_frames"), [("autoregressive", 9), ("joint", 9), ("autoregressive", 1)])
def test_the_runs_of_a_video_are_those_that_were_planned(video_pipe, long_video, num_frames):
    planned = plan_text_to_video_runs(
        num_frames=num_frames,
        window_size=4,
        num_steps=3,
        continuation_steps=2,
        long_video=long_video,
        takes_first_frame=True,
        has_flow_field=False,
    )
    steps = []
    with video_pipe.observe_steps(steps.append):
        settings = {"num_inference_steps": 3, "continuation_steps": 2} if long_video == "autoregressive" else {}
        settings.setdefault("num_inference_steps", 3)
        video_pipe("a cat", num_frames=num_frames, long_video=long_video, output_type="latent", **settings)
    runs = [(step.latents.shape[2], step.num_steps) for step in steps if step.index == 0]
    assert runs == [(run.num_frames, run.num_steps) for run in planned]


def test_a_denoiser_gets_the_step_that_it_is_called_for(pipe, generate_latents, monkeypatch):
    steps, denoiser_type = [], type(pipe._make_denoiser((1, 4, 8, 8), (64,) * 4 + (0, 0)))
    predict = denoiser_type.predict

    def record(self, step, embeds, conditioning):
        steps.append((step.index, float(step.timestep)))
        assert float(step.timestep) == float(pipe.current_timestep)
        return predict(self, step, embeds, conditioning)

    monkeypatch.setattr(denoiser_type, "predict", record)
    generate_latents(pipe, num_inference_steps=3)
    assert steps == list(enumerate(pipe.scheduler.timesteps.tolist()))


def test_interrupt_ends_the_call_and_the_next_one_runs_through(pipe, generate_latents):
    steps = []

    def stop(pipeline, index, timestep, tensors):
        pipeline.interrupt = index == 1
        return {}

    with pipe.observe_steps(steps.append):
        generate_latents(pipe, num_inference_steps=5, callback_on_step_end=stop)
        assert [step.index for step in steps] == [0, 1]
        generate_latents(pipe, num_inference_steps=5)
    assert len(steps) == 7


def test_a_pipeline_made_from_another_shares_its_weights_and_its_settings(video_pipe):
    video_pipe.register_to_config(default_continuation_steps=7, default_guidance_scale=2.5)
    video_pipe.motion_vocabulary = MotionVocabulary((MotionConcept(name="jump", phrases=("jump",), speed=0.4),))
    video_pipe.vocabulary = Vocabulary(zh=frozenset(), en=frozenset({"cat"}))
    images = TextToImagePipeline.from_pipe(video_pipe)
    assert images.transformer is video_pipe.transformer
    assert images.vocabulary is video_pipe.vocabulary
    assert images.config.default_guidance_scale == 2.5
    again = ImageToVideoPipeline.from_pipe(images)
    assert again.vae is video_pipe.vae
    assert again.config.default_continuation_steps == 7


def test_an_image_pipeline_becomes_a_video_pipeline_with_the_settings_of_its_folder(video_folder, tmp_path):
    source = TextToVideoPipeline.from_pretrained(video_folder)
    source.register_to_config(default_num_frames=6, default_fps=12.0)
    source.motion_vocabulary = MotionVocabulary((MotionConcept(name="jump", phrases=("jump",), speed=0.4),))
    source.save_pretrained(tmp_path / "model")
    images = TextToImagePipeline.from_pretrained(tmp_path / "model")
    videos = TextToVideoPipeline.from_pipe(images)
    assert (videos.config.default_num_frames, videos.config.default_fps) == (6, 12.0)
    assert videos.motion_vocabulary == source.motion_vocabulary
    images.save_pretrained(tmp_path / "copy")
    assert TextToVideoPipeline.from_pretrained(tmp_path / "copy").config.default_num_frames == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pipeline_made_from_another_keeps_the_dtype(video_folder, dtype):
    source = TextToVideoPipeline.from_pretrained(video_folder, dtype=dtype)
    assert TextToImagePipeline.from_pipe(source).transformer.dtype == dtype


def test_components_of_several_dtypes_are_not_converted_silently(video_folder):
    dtypes = {"transformer": torch.bfloat16, "default": torch.float32}
    source = TextToVideoPipeline.from_pretrained(video_folder, dtype=dtypes)
    with pytest.raises(DianjingError, match="several dtypes \\(bfloat16, float32\\)"):
        TextToImagePipeline.from_pipe(source)
    assert source.text_encoder.dtype == torch.float32


@pytest.mark.parametrize("count", [0, 10**6])
def test_a_number_of_videos_is_refused_under_its_own_name(video_pipe, count):
    with pytest.raises(DianjingError, match="num_videos_per_prompt is"):
        video_pipe("a cat", num_videos_per_prompt=count)


def test_settings_of_continuation_are_refused_for_a_video_without_a_first_frame(video_pipe):
    with pytest.raises(DianjingError, match="sampled in one run"):
        video_pipe("a cat", long_video="joint", continuation_steps=2)


class TestCallbacks:
    def test_a_callback_runs_at_each_step_and_may_replace_the_latents(self, pipe, generate_latents):
        steps = []

        def on_step_end(pipeline, step, timestep, tensors):
            assert pipeline is pipe
            assert timestep == pipe.current_timestep
            steps.append(step)
            return {"latents": torch.zeros_like(tensors["latents"])}

        assert not generate_latents(pipe, callback_on_step_end=on_step_end).any()
        assert steps == [0, 1, 2]

    @pytest.mark.parametrize("name", ["prompt_embeds", "prompt_embeds_2", "negative_prompt_embeds_2"])
    @pytest.mark.parametrize("change", ["in place", "new"])
    def test_states_that_a_callback_changes_take_effect_at_the_next_step(self, pipe, generate_latents, name, change):
        def on_step_end(pipeline, step, timestep, tensors):
            if step == 0 and change == "in place":
                tensors[name].zero_()
            elif step == 0:
                tensors[name] = torch.zeros_like(tensors[name])
            return tensors

        names = ["latents", name]
        changed = generate_latents(pipe, callback_on_step_end=on_step_end, callback_on_step_end_tensor_inputs=names)
        assert (changed - generate_latents(pipe)).abs().max() > 1e-4

    def test_a_callback_that_changes_nothing_has_no_effect(self, pipe, generate_latents, monkeypatch):
        counted, condition = [], pipe.transformer.compute_conditioning
        monkeypatch.setattr(
            pipe.transformer,
            "compute_conditioning",
            lambda *args, **inputs: counted.append(1) or condition(*args, **inputs),
        )
        names = ["latents", "prompt_embeds", "negative_prompt_embeds_2"]
        latents = generate_latents(
            pipe, callback_on_step_end=lambda p, s, t, k: k, callback_on_step_end_tensor_inputs=names
        )
        assert len(counted) == 1
        torch.testing.assert_close(latents, generate_latents(pipe))

    def test_a_callback_can_stop_the_run(self, pipe, generate_latents):
        steps = []

        def on_step_end(pipeline, step, timestep, tensors):
            steps.append(step)
            pipeline.interrupt = step == 1
            return tensors

        generate_latents(pipe, num_inference_steps=6, callback_on_step_end=on_step_end)
        assert steps == [0, 1]

    def test_the_cutoff_callback_of_diffusers_ends_guidance(self, pipe, generate_latents):
        cutoff = SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)
        cut = generate_latents(pipe, callback_on_step_end=cutoff)
        assert (cut - generate_latents(pipe)).abs().max() > 1e-2
        assert (cut - generate_latents(pipe, guidance_scale=1)).abs().max() > 1e-2

    def test_guidance_may_grow_while_it_runs(self, pipe, generate_latents):
        def on_step_end(pipeline, step, timestep, tensors):
            pipeline.guidance_scale += 1
            return tensors

        generate_latents(pipe, guidance_scale=5.0, callback_on_step_end=on_step_end)
        assert pipe.guidance_scale == 8
