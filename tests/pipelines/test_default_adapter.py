"""The default adapter of a model: against the same adapter loaded by PEFT, and what it leaves as it was."""

import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, EulerDiscreteScheduler
from peft import LoraConfig, get_peft_model_state_dict

from dianjing import DianjingError, DiT, TextToImagePipeline
from dianjing.pipelines.media.metadata import get_sampling_metadata
from dianjing.weights.adapter_sampling import AdapterSampling, write_adapter_sampling

SAMPLING = AdapterSampling(num_inference_steps=2, guidance_scale=1.0)
TARGETS = ("to_q", "to_out.0", "net.2")


def write_adapter(folder, model_folder, *, seed, targets=TARGETS, **options):
    transformer = DiT.from_pretrained(model_folder / "transformer")
    torch.manual_seed(seed)
    config = {"r": 2, "lora_alpha": 3, "target_modules": list(targets), "init_lora_weights": False, **options}
    transformer.add_adapter(LoraConfig(**config))
    weights = get_peft_model_state_dict(transformer)
    metadata = transformer.peft_config["default"].to_dict()
    TextToImagePipeline.save_lora_weights(folder, weights, transformer_lora_adapter_metadata=metadata)
    return folder


def write_few_steps(folder, model_folder, **options):
    write_adapter(folder, model_folder, seed=1, **options)
    scheduler = DDIMScheduler.from_pretrained(model_folder / "scheduler", timestep_spacing="trailing")
    scheduler.save_pretrained(folder / "scheduler")
    write_adapter_sampling(folder, SAMPLING)
    return folder


@pytest.fixture(scope="module")
def folder(hunyuan_folder, tmp_path_factory):
    """A model with a default adapter."""
    copy = tmp_path_factory.mktemp("models") / "fast"
    shutil.copytree(hunyuan_folder, copy)
    write_few_steps(copy / "few_steps", hunyuan_folder, alpha_pattern={"attn1.to_q": 1})
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps({**index, "_default_adapter": "few_steps"}))
    return copy


@pytest.fixture(scope="module")
def user_adapter(hunyuan_folder, tmp_path_factory):
    return write_adapter(tmp_path_factory.mktemp("adapter"), hunyuan_folder, seed=2, targets=("to_v", "to_q"))


def load(folder):
    pipe = TextToImagePipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def fast(folder):
    return load(folder)


def draw(pipe, **settings):
    settings = {"generator": torch.Generator().manual_seed(0), "output_type": "latent", **settings}
    return pipe("a cat", **settings).images


def draw_reference(hunyuan_folder, folder, *others, loaded=None):
    """The latents of a model without a default adapter, with the same adapter as PEFT applies it, beside others."""
    pipe = loaded or load(hunyuan_folder)
    pipe.load_lora_weights(folder / "few_steps", adapter_name="few")
    for number, other in enumerate(others):
        pipe.load_lora_weights(other, adapter_name=f"other_{number}")
    pipe.set_adapters(["few", *(f"other_{number}" for number in range(len(others)))])
    pipe.scheduler = DDIMScheduler.from_pretrained(folder / "few_steps" / "scheduler")
    return draw(pipe, num_inference_steps=SAMPLING.num_inference_steps, guidance_scale=SAMPLING.guidance_scale)


def assert_close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_call_without_steps_draws_as_peft_with_the_adapter(fast, folder, hunyuan_folder):
    images = draw(fast)
    assert_close(images, draw_reference(hunyuan_folder, folder))
    metadata = get_sampling_metadata(fast)
    assert (metadata["num_inference_steps"], metadata["guidance_scale"]) == (2, 1.0)
    assert metadata["default_adapter"] == "few_steps"
    assert (images - draw(fast, num_inference_steps=2, guidance_scale=1.0)).abs().max() > 1e-2
    assert torch.equal(draw(fast), images)


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


@pytest.mark.parametrize("name", ["guidance_scale", "guider", "negative_prompt", "guidance_rescale"])
def test_each_setting_of_guidance_alone_means_the_model_alone(fast, name):
    fast.register_to_config(default_num_inference_steps=3)
    value = {"guidance_scale": 2.0, "guider": "apg", "negative_prompt": "a dog", "guidance_rescale": 0.5}[name]
    draw(fast, **{name: value})
    assert fast.sampling_params.num_inference_steps == 3
    assert fast.sampling_params.default_adapter is None


def test_a_scheduler_of_the_user_means_the_model_alone(fast):
    fast.register_to_config(default_num_inference_steps=3)
    fast.scheduler = EulerDiscreteScheduler.from_config(fast.scheduler.config)
    draw(fast)
    assert fast.sampling_params.default_adapter is None


def test_it_can_be_switched_off(fast, loaded):
    fast.register_to_config(default_num_inference_steps=3)
    fast.default_adapter = None
    assert torch.equal(draw(fast), draw(loaded, num_inference_steps=3))


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


def test_an_adapter_of_the_user_acts_with_and_without_it(fast, folder, hunyuan_folder, user_adapter):
    own_default, alone = draw(fast), draw(fast, num_inference_steps=3)
    both = draw_reference(hunyuan_folder, folder, user_adapter)
    plain = load(hunyuan_folder)
    plain.load_lora_weights(user_adapter)
    fast.load_lora_weights(user_adapter, adapter_name="mine")
    assert_close(draw(fast), both)
    assert_close(draw(fast, num_inference_steps=3), draw(plain, num_inference_steps=3))
    fast.set_adapters("mine", 0.0)
    assert_close(draw(fast), own_default)
    fast.set_adapters("mine")
    fast.fuse_lora()
    assert_close(draw(fast), both)
    fast.unfuse_lora()
    assert_close(draw(fast), both)
    fast.disable_lora()
    assert_close(draw(fast), own_default)
    fast.enable_lora()
    fast.unload_lora_weights()
    assert_close(draw(fast), own_default)
    assert_close(draw(fast, num_inference_steps=3), alone)


def test_an_adapter_that_stays_in_the_weights_for_good_is_noticed(fast, folder, hunyuan_folder, user_adapter):
    draw(fast)
    fast.load_lora_weights(user_adapter)
    fast.fuse_lora()
    fast.unload_lora_weights()
    assert_close(draw(fast), draw_reference(hunyuan_folder, folder, user_adapter))


def test_weights_that_the_user_changes_are_noticed(fast, folder, hunyuan_folder):
    draw(fast)
    other = load(hunyuan_folder)
    for pipe in (fast, other):
        with torch.no_grad():
            pipe.transformer.blocks[0].attn1.to_q.weight[0, 0] += 3.0
    assert_close(draw(fast), draw_reference(hunyuan_folder, folder, loaded=other))


def test_a_dtype_is_followed(folder, hunyuan_folder):
    pipe = TextToImagePipeline.from_pretrained(folder, dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.transformer.dtype == torch.bfloat16
    images = draw(pipe)
    assert pipe.sampling_params.default_adapter is not None
    torch.testing.assert_close(images.float(), draw_reference(hunyuan_folder, folder), rtol=0.1, atol=0.2)


def test_weights_that_hooks_move_are_left_alone(fast):
    fast.register_to_config(default_num_inference_steps=3)
    fast.transformer.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    draw(fast)
    assert fast.sampling_params.default_adapter is None


def test_it_is_saved_and_shared_but_not_for_another_transformer(fast, folder, tmp_path):
    images = draw(fast)
    fast.save_pretrained(tmp_path / "saved")
    assert torch.equal(draw(load(tmp_path / "saved")), images)
    assert torch.equal(draw(TextToImagePipeline.from_pipe(fast)), images)
    fast.save_pretrained(tmp_path / "saved")  # over itself
    transformer = DiT.from_pretrained(folder / "transformer")
    tuned = TextToImagePipeline.from_pretrained(folder, transformer=transformer)
    assert tuned.default_adapter is None
    assert TextToImagePipeline.from_pipe(fast, transformer=transformer).default_adapter is None
    tuned.save_pretrained(tmp_path / "tuned")
    assert "_default_adapter" not in json.loads((tmp_path / "tuned" / "model_index.json").read_text())
    assert not (tmp_path / "tuned" / "few_steps").exists()


def test_diffusers_opens_the_folder_as_the_model_alone(folder, loaded, caplog):
    pipe = DiffusionPipeline.from_pretrained(folder)
    assert not [record for record in caplog.records if "not expected" in record.getMessage()]
    weights = pipe.transformer.state_dict()
    assert all(torch.equal(weights[name], each) for name, each in loaded.transformer.state_dict().items())


@pytest.mark.parametrize("name", ["sampling.json", "scheduler/scheduler_config.json"])
def test_an_incomplete_default_adapter_is_named(folder, tmp_path, name):
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "few_steps" / name).unlink()
    with pytest.raises(DianjingError) as error:
        TextToImagePipeline.from_pretrained(tmp_path / "model")
    assert error.value.message_id == "default_adapter_incomplete"


def test_an_adapter_that_cannot_be_merged_is_refused_at_its_first_call(folder, hunyuan_folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    write_few_steps(tmp_path / "model" / "few_steps", hunyuan_folder, use_dora=True)
    pipe = load(tmp_path / "model")
    with pytest.raises(DianjingError) as error:
        draw(pipe)
    assert error.value.message_id == "adapter_setting_unsupported"


def test_a_folder_outside_of_the_model_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
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


def test_an_adapter_for_few_steps_brings_its_scheduler_and_settings_to_any_model(own_pipe, folder, hunyuan_folder):
    scheduler = own_pipe.scheduler
    own_pipe.load_lora_weights(folder / "few_steps", adapter_name="few")
    assert_close(draw(own_pipe), draw_reference(hunyuan_folder, folder))
    draw(own_pipe, num_inference_steps=3)
    assert (own_pipe.sampling_params.num_inference_steps, own_pipe.sampling_params.guidance_scale) == (3, 1.0)
    draw(own_pipe, num_inference_steps=3, guider="apg")  # which guides by the model's scale
    assert own_pipe.sampling_params.guidance_scale == own_pipe.config.default_guidance_scale
    own_pipe.fuse_lora()
    assert_close(draw(own_pipe), draw_reference(hunyuan_folder, folder))
    own_pipe.unload_lora_weights()
    assert own_pipe.scheduler is scheduler
    assert own_pipe.get_adapter_sampling() is None


def test_such_an_adapter_takes_the_place_of_the_default_one(fast, folder, tmp_path, hunyuan_folder):
    write_few_steps(tmp_path, hunyuan_folder)
    fast.load_lora_weights(tmp_path, adapter_name="other")
    draw(fast)
    assert fast.sampling_params.default_adapter is None
    assert fast.sampling_params.num_inference_steps == SAMPLING.num_inference_steps
