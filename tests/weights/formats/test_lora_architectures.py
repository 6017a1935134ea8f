"""An adapter for another model is refused by that model's name; one for Hunyuan-DiT never is.

The keys are those of published files: kohya's sd-scripts and musubi-tuner, diffusers, ComfyUI and Wan's repository.
"""

import pytest
import torch

from dianjing.weights.formats.lora_architectures import find_architecture
from dianjing.weights.formats.tencent_names import RULES

KEYS = {
    "SDXL": [
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight", (8, 2048)),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight", (8, 2048)),
    ],
    "Stable Diffusion 1": [
        ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight", (8, 768)),
        ("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.lora.down.weight", (8, 768)),
    ],
    "Stable Diffusion or SDXL": [
        ("lora_unet_up_blocks_0_attentions_0_proj_in.lora_down.weight", (8, 640)),
        ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight", (8, 768)),
    ],
    "Flux": [
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", (8, 3072)),
        ("lora_unet_single_blocks_3_linear1.lora_down.weight", (8, 3072)),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", (8, 3072)),
        ("double_blocks.0.processor.qkv_lora1.down.weight", (8, 3072)),
    ],
    "HunyuanVideo": [
        ("lora_unet_double_blocks_0_img_mlp_fc1.lora_down.weight", (8, 3072)),
        ("diffusion_model.double_blocks.0.img_attn_qkv.lora_A.weight", (8, 3072)),
        ("transformer.context_embedder.token_refiner.refiner_blocks.0.attn.to_q.lora_A.weight", (8, 3072)),
    ],
    "Wan": [
        ("lora_unet_blocks_0_self_attn_q.lora_down.weight", (8, 5120)),
        ("diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight", (8, 5120)),
        ("transformer.blocks.0.ffn.net.0.proj.lora_A.weight", (8, 1536)),
    ],
    "Stable Diffusion 3": [
        ("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight", (8, 1536)),
        ("diffusion_model.joint_blocks.0.x_block.attn.proj.lora_A.weight", (8, 1536)),
    ],
    "a language model": [("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", (8, 4096))],
}
CASES = [(model, key, size) for model, keys in KEYS.items() for key, size in keys]


@pytest.mark.parametrize(("model", "key", "size"), CASES)
def test_the_model_of_an_adapter_is_named(model, key, size):
    assert find_architecture({key: torch.zeros(size)}) == model


@pytest.mark.parametrize(("model", "double", "single"), [("Flux", 19, 38), ("HunyuanVideo", 20, 40)])
@pytest.mark.parametrize(
    "names",
    [
        ("transformer.transformer_blocks.{}.attn.to_q", "transformer.single_transformer_blocks.{}.attn.to_q"),
        ("lora_unet_double_blocks_{}_img_attn_qkv", "lora_unet_single_blocks_{}_linear1"),
    ],
    ids=["diffusers", "kohya"],
)
def test_models_with_equal_names_are_distinguished_by_their_numbers_of_blocks(model, double, single, names):
    """An adapter of the attention alone, as finetrainers and musubi-tuner can write it."""
    counts = zip(names, (double, single), strict=True)
    keys = [f"{name.format(index)}.lora_A.weight" for name, count in counts for index in range(count)]
    assert find_architecture({key: torch.zeros(8, 3072) for key in keys}) == model


def test_no_module_of_hunyuan_dit_is_called_another_model():
    for rule in RULES:
        for name in (rule.tencent, *rule.diffusers):
            module = name.replace("{i}", "3")
            for key in (f"{module}.lora_A.weight", f"lora_unet_{module.replace('.', '_')}.lora_down.weight"):
                assert find_architecture({key: torch.zeros(8, 16)}) is None, key
    texts = ("lora_te1_encoder_layer_0_attention_self_query", "lora_te2_encoder_block_0_layer_0_SelfAttention_q")
    for module in texts:
        assert find_architecture({f"{module}.lora_down.weight": torch.zeros(8, 16)}) is None


def test_a_refusal_names_the_model_and_changes_nothing(tiny_folder, tmp_path):
    from safetensors.torch import save_file

    from dianjing import DianjingError, TextToImagePipeline

    pipe = TextToImagePipeline.from_pretrained(tiny_folder)
    (key, size), path = KEYS["Wan"][0], tmp_path / "style.safetensors"
    save_file({key: torch.zeros(size)}, path)
    with pytest.raises(DianjingError, match="an adapter for Wan"):
        pipe.load_lora_weights(path)
    assert pipe.get_list_adapters() == {}
