"""Which calls the adapter for few steps draws: those of the model as it is, and those that ask for it."""

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image

from dianjing import DianjingError, ImageToImagePipeline
from dianjing.pipelines.media.metadata import get_sampling_metadata
from tests.pipelines.few_steps_models import SAMPLING, assert_close, draw, draw_reference, load, write_few_steps


@pytest.mark.parametrize(
    "settings",
    [
        {"num_inference_steps": 3},
        {"guidance_scale": 3.0, "num_inference_steps": 3},
        {"guider": "apg", "num_inference_steps": 3},
        {"negative_prompt": "a dog", "num_inference_steps": 3},
        {"guidance_rescale": 0.5, "num_inference_steps": 3},
    ],
    ids=str,
)
def test_settings_of_a_call_mean_the_model_alone(fast, loaded, settings):
    draw(fast)  # whose adapter must leave no trace
    assert torch.equal(draw(fast, **settings), draw(loaded, **settings))
    assert "default_adapter" not in get_sampling_metadata(fast)


def test_slow_means_the_model_alone_and_anything_but_a_truth_value_is_refused(fast, loaded):
    assert torch.equal(draw(fast, slow=True), draw(loaded, num_inference_steps=3))
    assert torch.equal(draw(fast, slow=False), draw(fast))
    with pytest.raises(DianjingError) as error:
        draw(fast, slow="no")
    assert error.value.message_id == "slow_type"


@pytest.mark.parametrize(
    ("settings", "message_id"),
    [
        ({"num_inference_steps": 2}, "few_steps_with_settings"),
        ({"guidance_rescale": 0.5, "negative_prompt": "a dog"}, "few_steps_with_settings"),
    ],
)
def test_few_steps_with_settings_that_rule_them_out_are_refused(fast, settings, message_id):
    with pytest.raises(DianjingError) as error:
        draw(fast, slow=False, **settings)
    assert error.value.message_id == message_id
    assert set(error.value.arguments["names"]) == set(settings)


def test_few_steps_that_cannot_be_are_refused_with_the_reason(fast, few_steps_folder, loaded, tmp_path, hunyuan_folder):
    def get_reason(pipe):
        with pytest.raises(DianjingError) as error:
            draw(pipe, slow=False)
        assert error.value.message_id == "few_steps_impossible"
        return error.value.arguments["reason"].message_id

    assert get_reason(loaded) == "few_steps_not_there"
    write_few_steps(tmp_path, hunyuan_folder)
    fast.load_lora_weights(tmp_path)
    assert get_reason(fast) == "few_steps_of_adapter"
    fast.unload_lora_weights()
    fast.scheduler = EulerDiscreteScheduler.from_config(fast.scheduler.config)
    assert get_reason(fast) == "few_steps_other_scheduler"
    fast.scheduler = fast.trained_scheduler
    fast.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    assert get_reason(fast) == "few_steps_not_merged"


def test_edits_are_made_by_the_model_alone_and_in_few_steps_on_request(fast, loaded):
    edit, reference = (ImageToImagePipeline.from_pipe(pipe) for pipe in (fast, loaded))
    image = Image.effect_noise((64, 64), 60).convert("RGB")
    by_default = draw(edit, image=image, strength=1.0)
    assert torch.equal(by_default, draw(reference, image=image, strength=1.0, num_inference_steps=3))
    assert "default_adapter" not in get_sampling_metadata(edit)
    assert_close(draw(edit, image=image, strength=1.0, slow=False), draw(fast, height=64, width=64))  # nothing is left
    assert get_sampling_metadata(edit)["default_adapter"] == "few_steps"


@pytest.mark.parametrize("name", ["guidance_scale", "guider", "negative_prompt", "guidance_rescale"])
def test_each_setting_of_guidance_alone_means_the_model_alone(fast, name):
    value = {"guidance_scale": 2.0, "guider": "apg", "negative_prompt": "a dog", "guidance_rescale": 0.5}[name]
    draw(fast, **{name: value})
    assert fast.sampling_params.num_inference_steps == 3
    assert fast.sampling_params.default_adapter is None


def test_a_scheduler_of_the_user_means_the_model_alone(fast):
    fast.scheduler = EulerDiscreteScheduler.from_config(fast.scheduler.config)
    draw(fast)
    assert fast.sampling_params.default_adapter is None


def test_it_can_be_switched_off(fast, loaded):
    fast.default_adapter = None
    assert torch.equal(draw(fast), draw(loaded, num_inference_steps=3))


def test_an_adapter_of_the_user_acts_in_the_models_own_steps_and_in_few_steps_on_request(
    fast, few_steps_folder, hunyuan_folder, user_adapter
):
    own_default = draw(fast)
    both = draw_reference(hunyuan_folder, few_steps_folder, user_adapter)
    plain = load(hunyuan_folder)
    plain.load_lora_weights(user_adapter)
    alone = draw(plain, num_inference_steps=3)
    fast.load_lora_weights(user_adapter, adapter_name="mine")
    assert_close(draw(fast), alone)
    assert "default_adapter" not in get_sampling_metadata(fast)
    assert_close(draw(fast, slow=False), both)
    assert get_sampling_metadata(fast)["default_adapter"] == "few_steps"
    fast.set_adapters("mine", 0.0)
    assert_close(draw(fast), own_default)
    fast.set_adapters("mine")
    fast.fuse_lora()
    assert_close(draw(fast), alone)
    assert_close(draw(fast, slow=False), both)
    fast.unfuse_lora()
    fast.disable_lora()
    assert_close(draw(fast), own_default)
    fast.enable_lora()
    assert_close(draw(fast), alone)
    fast.unload_lora_weights()
    assert_close(draw(fast), own_default)


def test_an_adapter_that_stays_in_the_weights_for_good_is_noticed(fast, few_steps_folder, hunyuan_folder, user_adapter):
    draw(fast)
    fast.load_lora_weights(user_adapter)
    fast.fuse_lora()
    fast.unload_lora_weights()
    plain = load(hunyuan_folder)
    plain.load_lora_weights(user_adapter)
    assert_close(draw(fast), draw(plain, num_inference_steps=3))
    assert_close(draw(fast, slow=False), draw_reference(hunyuan_folder, few_steps_folder, user_adapter))


def test_weights_that_hooks_move_are_left_alone(fast):
    fast.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    draw(fast)
    assert fast.sampling_params.default_adapter is None


def test_such_an_adapter_takes_the_place_of_the_default_one(fast, few_steps_folder, tmp_path, hunyuan_folder):
    write_few_steps(tmp_path, hunyuan_folder)
    fast.load_lora_weights(tmp_path, adapter_name="other")
    draw(fast)
    assert fast.sampling_params.default_adapter is None
    assert fast.sampling_params.num_inference_steps == SAMPLING.num_inference_steps
