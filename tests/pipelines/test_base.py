"""Loading and saving of pipelines, offloading and LoRA adapters."""

import json

import accelerate.hooks
import pytest
import torch
from diffusers import HunyuanDiTPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from peft import LoraConfig, get_peft_model_state_dict
from transformers import CLIPConfig, CLIPImageProcessor

from dianjing import DiT, TextToImagePipeline
from dianjing.pipelines.prompting.vocabulary import Vocabulary
from dianjing.weights.manifest import WeightsError


def assert_close(a, b, tolerance=1e-4):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_a_saved_pipeline_loads_and_generates_the_same(pipe, generate_latents, tmp_path):
    pipe.vocabulary = Vocabulary(zh=frozenset({"猫"}), en=frozenset({"cat"}))
    pipe.save_pretrained(tmp_path)
    again = TextToImagePipeline.from_pretrained(tmp_path)
    assert isinstance(again.transformer, DiT)
    assert again.vocabulary == pipe.vocabulary
    assert_close(generate_latents(again), generate_latents(pipe))


def test_a_saved_folder_names_classes_that_diffusers_has(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, safe_serialization=False)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["transformer"] == ["diffusers", "HunyuanDiT2DModel"]
    assert index["vae"] == ["diffusers", "AutoencoderKL"]
    assert not list(tmp_path.rglob("*.bin")), "a pickle was written"


def test_a_component_replaces_the_one_of_the_folder(hunyuan_folder):
    other = TextToImagePipeline.from_pretrained(hunyuan_folder, text_encoder_2=None, tokenizer_2=None)
    assert other.text_encoder_2 is None


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_all_components_have_the_requested_dtype_or_float32_whatever_their_files_have(dtype):
    pipe = TextToImagePipeline.from_pretrained("sticker", **({} if dtype is None else {"dtype": dtype}))
    dtypes = {part.dtype for part in pipe.components.values() if isinstance(part, torch.nn.Module)}
    assert dtypes == {dtype or torch.float32}


def test_each_component_may_have_its_own_dtype(hunyuan_folder, generate_latents):
    dtypes = {"transformer": torch.bfloat16, "default": torch.float32}
    mixed = TextToImagePipeline.from_pretrained(hunyuan_folder, dtype=dtypes)
    assert (mixed.transformer.dtype, mixed.text_encoder.dtype) == (torch.bfloat16, torch.float32)
    assert generate_latents(mixed, output_type="pt").isfinite().all()


@pytest.mark.parametrize(
    "options",
    [{"custom_pipeline": "x"}, {"trust_remote_code": True}, {"use_safetensors": False}, {"use_onnx": True}],
    ids=str,
)
def test_an_option_that_could_run_code_is_refused(hunyuan_folder, options):
    with pytest.raises(ValueError, match="refused"):
        TextToImagePipeline.from_pretrained(hunyuan_folder, **options)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(WeightsError, match="sticker"):
        TextToImagePipeline.from_pretrained("stiker")


def test_a_folder_of_another_architecture_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        sample_size=8,
        cross_attention_dim=8,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        layers_per_block=1,
    )
    unet.save_pretrained(tmp_path / "transformer")
    index["transformer"] = ["diffusers", "UNet2DConditionModel"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="UNet2DConditionModel; TextToImagePipeline takes a Hunyuan-DiT"):
        TextToImagePipeline.from_pretrained(tmp_path)


def test_a_transformer_of_diffusers_itself_is_refused(make_hunyuan, pipe):
    with pytest.raises(ValueError, match=r"HunyuanDiT2DModel; load its folder with DiT\.from_pretrained"):
        TextToImagePipeline(**{**pipe.components, "transformer": make_hunyuan().transformer})


def test_a_published_folder_with_a_safety_checker_loads_and_is_checked(make_hunyuan, generate_latents, tmp_path):
    side = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(
        vision_config={**side, "image_size": 32, "patch_size": 16},
        text_config={**side, "vocab_size": 9},
        projection_dim=8,
    )
    extractor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    checker = StableDiffusionSafetyChecker(config)
    parts = {**make_hunyuan().components, "safety_checker": checker.eval(), "feature_extractor": extractor}
    HunyuanDiTPipeline(**parts).save_pretrained(tmp_path)
    pipe = TextToImagePipeline.from_pretrained(tmp_path)
    assert pipe("a cat", num_inference_steps=1).nsfw_content_detected in ([True], [False])


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offload_generates_the_same(own_pipe, generate_latents, kind):
    expected = generate_latents(own_pipe)
    cpu = torch.device("cpu")
    options = {"num_blocks_per_group": 1} if kind == "block_level" else {}
    own_pipe.transformer.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type=kind, **options)
    assert_close(generate_latents(own_pipe), expected)


def test_model_offload_loads_the_transformer_before_conditioning_is_computed(own_pipe, generate_latents):
    expected = generate_latents(own_pipe)
    own_pipe.enable_model_cpu_offload(device="cpu")
    order = []
    hook = own_pipe.transformer._hf_hook
    onload = hook.pre_forward
    hook.pre_forward = lambda *args, **kwargs: (order.append("onload"), onload(*args, **kwargs))[1]
    handle = own_pipe.transformer.text_embedder.register_forward_pre_hook(lambda *_: order.append("conditioning"))
    assert_close(generate_latents(own_pipe), expected)
    handle.remove()
    assert order[:2] == ["onload", "conditioning"]


def test_sequential_offload_generates_the_same_twice(own_pipe, generate_latents, monkeypatch):
    """accelerate replaces no parameter on the CPU by itself, so the swap is done for it here."""

    def swap(module, name, device, value=None, **_):
        *path, leaf = name.split(".")
        for part in path:
            module = getattr(module, part)
        is_parameter = leaf in module._parameters
        store = module._parameters if is_parameter else module._buffers
        new = torch.empty_like(store[leaf], device="meta") if str(device) == "meta" else value
        new = store[leaf] if new is None else new
        store[leaf] = torch.nn.Parameter(new, requires_grad=False) if is_parameter else new

    expected = generate_latents(own_pipe, output_type="pt")
    monkeypatch.setattr(accelerate.hooks, "set_module_tensor_to_device", swap)
    own_pipe.enable_sequential_cpu_offload(device="cpu")
    for _ in range(2):
        assert_close(generate_latents(own_pipe, output_type="pt"), expected)
    assert all(parameter.is_meta for parameter in own_pipe.transformer.parameters())


def test_a_lora_is_loaded_scaled_fused_and_unloaded(own_pipe, generate_latents, tmp_path):
    plain = generate_latents(own_pipe)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["to_q", "to_v", "to_out.0"], init_lora_weights=False)
    own_pipe.transformer.add_adapter(config)
    adapted = generate_latents(own_pipe)
    own_pipe.save_lora_weights(
        tmp_path,
        get_peft_model_state_dict(own_pipe.transformer),
        transformer_lora_adapter_metadata=own_pipe.transformer.peft_config["default"].to_dict(),
    )
    own_pipe.unload_lora_weights()
    assert_close(generate_latents(own_pipe), plain)
    own_pipe.load_lora_weights(tmp_path / "pytorch_lora_weights.safetensors", adapter_name="mine")
    assert_close(generate_latents(own_pipe), adapted)
    own_pipe.set_adapters("mine", 0.0)
    assert_close(generate_latents(own_pipe), plain)
    own_pipe.set_adapters("mine", 1.0)
    own_pipe.fuse_lora()
    assert_close(generate_latents(own_pipe), adapted, 1e-3)
    assert own_pipe.num_fused_loras == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"blocks.99.attn1.to_q.lora_A.weight": torch.zeros(2, 16)}, "another model.*blocks.99"),
        ({"blocks.0.attn1.to_q.weight": torch.zeros(16, 16)}, "no LoRA weights"),
        ({}, "no LoRA weights"),
        ("adapter.bin", "pickle"),
    ],
    ids=["another model", "no lora", "empty", "pickle"],
)
def test_a_lora_that_does_not_fit_is_refused(pipe, source, message):
    with pytest.raises(ValueError, match=message):
        pipe.load_lora_weights(source)


def test_vae_slicing_and_attention_slicing_generate_the_same(own_pipe, generate_latents):
    expected = generate_latents(own_pipe, num_images_per_prompt=2, output_type="pt")
    own_pipe.enable_vae_slicing()
    own_pipe.enable_attention_slicing()
    assert_close(generate_latents(own_pipe, num_images_per_prompt=2, output_type="pt"), expected)
    own_pipe.enable_vae_tiling()
    assert generate_latents(own_pipe, output_type="pt").shape == (1, 3, 64, 64)
