"""The default adapter of a model: against the same adapter loaded by PEFT, and what it leaves as it was."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline

from dianjing import DianjingError, DiT, TextToImagePipeline
from dianjing.pipelines.media.metadata import get_sampling_metadata
from tests.pipelines.few_steps_models import assert_close, draw, draw_reference, load, write_few_steps


def test_a_call_without_steps_draws_as_peft_with_the_adapter(fast, few_steps_folder, hunyuan_folder):
    images = draw(fast)
    assert_close(images, draw_reference(hunyuan_folder, few_steps_folder))
    metadata = get_sampling_metadata(fast)
    assert (metadata["num_inference_steps"], metadata["guidance_scale"]) == (2, 1.0)
    assert metadata["default_adapter"] == "few_steps"
    assert (images - draw(fast, num_inference_steps=2, guidance_scale=1.0)).abs().max() > 1e-2
    assert torch.equal(draw(fast), images)


def test_weights_adapters_and_scheduler_are_what_they_were(fast, user_adapter):
    weights, scheduler = {name: each.clone() for name, each in fast.transformer.state_dict().items()}, fast.scheduler

    def fail(pipe, step, timestep, tensors):
        raise RuntimeError("a fault of a callback")

    draw(fast)
    with pytest.raises(RuntimeError, match="a fault"):
        draw(fast, callback_on_step_end=fail)
    assert fast.transformer.state_dict().keys() == weights.keys()
    assert all(torch.equal(each, weights[name]) for name, each in fast.transformer.state_dict().items())
    assert fast.scheduler is scheduler
    assert fast.get_list_adapters() == {}
    assert fast.get_active_adapters() == []
    fast.load_lora_weights(user_adapter, adapter_name="mine")
    draw(fast)
    assert fast.get_list_adapters() == {"transformer": ["mine"]}
    assert fast.get_active_adapters() == ["mine"]


def test_weights_that_the_user_changes_are_noticed(fast, few_steps_folder, hunyuan_folder):
    draw(fast)
    other = load(hunyuan_folder)
    for pipe in (fast, other):
        with torch.no_grad():
            pipe.transformer.blocks[0].attn1.to_q.weight[0, 0] += 3.0
    assert_close(draw(fast), draw_reference(hunyuan_folder, few_steps_folder, loaded=other))


def test_a_dtype_is_followed(few_steps_folder, hunyuan_folder):
    pipe = TextToImagePipeline.from_pretrained(few_steps_folder, dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.transformer.dtype == torch.bfloat16
    images = draw(pipe)
    assert pipe.sampling_params.default_adapter is not None
    torch.testing.assert_close(images.float(), draw_reference(hunyuan_folder, few_steps_folder), rtol=0.1, atol=0.2)


def test_it_is_saved_and_shared_but_not_for_another_transformer(fast, few_steps_folder, tmp_path):
    images = draw(fast)
    fast.save_pretrained(tmp_path / "saved")
    assert torch.equal(draw(load(tmp_path / "saved")), images)
    assert torch.equal(draw(TextToImagePipeline.from_pipe(fast)), images)
    fast.save_pretrained(tmp_path / "saved")  # over itself
    transformer = DiT.from_pretrained(few_steps_folder / "transformer")
    tuned = TextToImagePipeline.from_pretrained(few_steps_folder, transformer=transformer)
    assert tuned.default_adapter is None
    assert TextToImagePipeline.from_pipe(fast, transformer=transformer).default_adapter is None
    tuned.save_pretrained(tmp_path / "tuned")
    assert "_default_adapter" not in json.loads((tmp_path / "tuned" / "model_index.json").read_text())
    assert not (tmp_path / "tuned" / "few_steps").exists()


def test_diffusers_opens_the_folder_as_the_model_alone(few_steps_folder, loaded, caplog):
    pipe = DiffusionPipeline.from_pretrained(few_steps_folder)
    assert not [record for record in caplog.records if "not expected" in record.getMessage()]
    weights = pipe.transformer.state_dict()
    assert all(torch.equal(weights[name], each) for name, each in loaded.transformer.state_dict().items())


@pytest.mark.parametrize("name", ["sampling.json", "scheduler/scheduler_config.json"])
def test_an_incomplete_default_adapter_is_named(few_steps_folder, tmp_path, name):
    shutil.copytree(few_steps_folder, tmp_path / "model")
    (tmp_path / "model" / "few_steps" / name).unlink()
    with pytest.raises(DianjingError) as error:
        TextToImagePipeline.from_pretrained(tmp_path / "model")
    assert error.value.message_id == "default_adapter_incomplete"


def test_an_adapter_that_cannot_be_merged_is_refused_at_its_first_call(few_steps_folder, hunyuan_folder, tmp_path):
    shutil.copytree(few_steps_folder, tmp_path / "model")
    write_few_steps(tmp_path / "model" / "few_steps", hunyuan_folder, use_dora=True)
    pipe = load(tmp_path / "model")
    with pytest.raises(DianjingError) as error:
        draw(pipe)
    assert error.value.message_id == "adapter_setting_unsupported"


def test_a_folder_outside_of_the_model_is_refused(few_steps_folder, tmp_path):
    shutil.copytree(few_steps_folder, tmp_path / "model")
    path = tmp_path / "model" / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_default_adapter": "../elsewhere"}))
    with pytest.raises(DianjingError):
        TextToImagePipeline.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("values", [{}, {"num_inference_steps": 0, "guidance_scale": 1.0}, {"num_inference_steps": 4}])
def test_unusable_sampling_settings_are_refused_before_anything_changes(own_pipe, hunyuan_folder, tmp_path, values):
    write_few_steps(tmp_path, hunyuan_folder)
    (tmp_path / "sampling.json").write_text(json.dumps(values))
    with pytest.raises(DianjingError) as error:
        own_pipe.load_lora_weights(tmp_path)
    assert error.value.message_id == "adapter_sampling_invalid"
    assert own_pipe.get_list_adapters() == {}


def test_an_adapter_for_few_steps_brings_its_scheduler_and_settings_to_any_model(
    own_pipe, few_steps_folder, hunyuan_folder
):
    scheduler = own_pipe.scheduler
    own_pipe.load_lora_weights(few_steps_folder / "few_steps", adapter_name="few")
    assert_close(draw(own_pipe), draw_reference(hunyuan_folder, few_steps_folder))
    draw(own_pipe, num_inference_steps=3)
    assert (own_pipe.sampling_params.num_inference_steps, own_pipe.sampling_params.guidance_scale) == (3, 1.0)
    draw(own_pipe, num_inference_steps=3, guider="apg")  # which guides by the model's scale
    assert own_pipe.sampling_params.guidance_scale == own_pipe.config.default_guidance_scale
    own_pipe.fuse_lora()
    assert_close(draw(own_pipe), draw_reference(hunyuan_folder, few_steps_folder))
    own_pipe.unload_lora_weights()
    assert own_pipe.scheduler is scheduler
    assert own_pipe.get_adapter_sampling() is None
