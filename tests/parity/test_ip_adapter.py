"""An IP-Adapter in Tencent's layout generates what Tencent's formulas give in diffusers' pipeline."""

import pytest
import torch
import torch.nn.functional as F
from transformers import ChineseCLIPConfig, ChineseCLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from dianjing import TextToImagePipeline
from dianjing.pipelines.ip_adapter import embed_images
from tests.parity.tencent_ip_adapter import (
    EMBED_DIM,
    OpenAITower,
    TencentProcessor,
    make_picture,
    make_tensors,
    make_tokens,
    preprocess,
    rand_embeds,
    with_negative,
)
from tests.parity.test_text_to_image import error, generate


@pytest.fixture(scope="module")
def pair(make_hunyuan, tmp_path_factory):
    """Their pipeline, and ours loaded from the folder that theirs saved."""
    theirs = make_hunyuan(with_size=False)
    folder = tmp_path_factory.mktemp("hunyuan")
    theirs.save_pretrained(folder)
    ours = TextToImagePipeline.from_pretrained(folder)
    for pipe in (theirs, ours):
        pipe.set_progress_bar_config(disable=True)
    return theirs, ours


@pytest.fixture
def ours(pair):
    yield pair[1]
    pair[1].unload_ip_adapter()


@pytest.fixture
def generate_theirs(pair):
    """Generate by their pipeline with Tencent's image attention; prompts are (tensors, embeds (P, I), scale)."""
    attentions = [block.attn2 for block in pair[0].transformer.blocks]
    before = [attention.processor for attention in attentions]

    def run(prompts, *, batch_size=2, **settings):
        guided = settings.get("guidance_scale", 5.0) > 1
        made = []
        for tensors, embeds, scale in prompts:
            halves = [torch.zeros_like(embeds), embeds] if guided else [embeds]
            tokens = [make_tokens(tensors, half).flatten(0, 1) for half in halves]
            made.append((tensors, torch.stack(tokens).repeat_interleave(batch_size, dim=0), scale))
        for layer, attention in enumerate(attentions):
            attention.processor = TencentProcessor(made, layer)
        return generate(pair[0], output_type="latent", **settings)

    yield run
    for attention, processor in zip(attentions, before, strict=True):
        attention.processor = processor


@pytest.mark.parametrize("guidance_scale", [5.0, 1.0])
@pytest.mark.parametrize("num_pictures", [1, 3])
def test_pictures_act_as_in_tencents_code(ours, generate_theirs, guidance_scale, num_pictures):
    tensors, embeds = make_tensors(), rand_embeds(num_pictures)
    plain = generate(ours, output_type="latent", guidance_scale=guidance_scale)
    ours.load_ip_adapter(tensors)
    ours.set_ip_adapter_scale(0.6)
    rows = with_negative(embeds) if guidance_scale > 1 else embeds[None]
    settings = {"guidance_scale": guidance_scale}
    result = generate(ours, output_type="latent", ip_adapter_image_embeds=[rows], **settings)
    expected = generate_theirs([(tensors, embeds, 0.6)], **settings)
    assert error(result, expected) <= 1e-4
    assert error(plain, expected) > 1e-2


def test_two_ip_adapters_add_up(ours, generate_theirs):
    prompts = [(make_tensors(0), rand_embeds(1, 5), 0.6), (make_tensors(1), rand_embeds(2, 6), 1.3)]
    ours.load_ip_adapter([tensors for tensors, _, _ in prompts])
    ours.set_ip_adapter_scale([0.6, 1.3])
    embeds = [with_negative(embeds) for _, embeds, _ in prompts]
    result = generate(ours, output_type="latent", ip_adapter_image_embeds=embeds)
    assert error(result, generate_theirs(prompts)) <= 1e-4


def test_a_scale_of_zero_and_unloading_leave_the_model_as_it_was(ours):
    plain = generate(ours, output_type="latent")
    ours.load_ip_adapter(make_tensors())
    embeds = [with_negative(rand_embeds())]
    acting = generate(ours, output_type="latent", ip_adapter_image_embeds=embeds)
    ours.set_ip_adapter_scale(0.0)
    assert torch.equal(generate(ours, output_type="latent", ip_adapter_image_embeds=embeds), plain)
    ours.unload_ip_adapter()
    assert torch.equal(generate(ours, output_type="latent"), plain)
    assert error(acting, plain) > 1e-2


def test_an_ip_adapter_acts_after_guidance_is_switched_off(ours):
    """A callback that switches guidance off leaves the rows of the pictures."""
    ours.load_ip_adapter(make_tensors())

    def switch_off(pipe, index, timestep, tensors):
        pipe._guidance_scale = 1.0
        return tensors

    settings = {"output_type": "latent", "ip_adapter_image_embeds": [with_negative(rand_embeds())]}
    switched = generate(ours, callback_on_step_end=switch_off, **settings)
    assert switched.isfinite().all()
    assert error(switched, generate(ours, **settings)) > 1e-3


def test_bfloat16_blocks_attend_to_pictures(ours, pair):
    """In bfloat16 on a CPU the blocks are fused."""
    ours.load_ip_adapter(make_tensors())
    settings = {"output_type": "latent", "num_inference_steps": 2, "guidance_scale": 1.0}
    embeds = {"ip_adapter_image_embeds": [rand_embeds()[None]]}
    exact, plain = generate(ours, **settings, **embeds), generate(ours, **settings)
    low = TextToImagePipeline.from_pretrained(ours._folder, dtype=torch.bfloat16)
    low.set_progress_bar_config(disable=True)
    low.load_ip_adapter(make_tensors())
    assert error(generate(low, **settings, **embeds).float(), exact) < 0.3 * error(plain, exact)


@pytest.fixture
def tencent_folder(tmp_path):
    """ipa.pt and clip_img_encoder.pt as Tencent publishes them, random."""
    torch.save(make_tensors(), tmp_path / "ipa.pt")
    torch.manual_seed(0)
    tower = OpenAITower().eval()
    state = {f"module.visual.{name}": tensor for name, tensor in tower.state_dict().items()}
    state["module.logit_scale"] = torch.ones([])
    torch.save({"epoch": 1, "step": 2, "state_dict": state}, tmp_path / "clip_img_encoder.pt")
    return tmp_path, tower


@torch.no_grad()
def test_tencents_files_load_with_their_image_tower(ours, tencent_folder, generate_theirs):
    folder, tower = tencent_folder
    pictures = [make_picture(seed=seed) for seed in range(2)]
    expected = F.normalize(tower(torch.stack([preprocess(picture, 12) for picture in pictures])), dim=-1)
    ours.load_ip_adapter(folder)
    torch.testing.assert_close(embed_images(ours.image_encoder, pictures), expected, atol=1e-5, rtol=1e-5)
    result = generate(ours, output_type="latent", ip_adapter_image=pictures)
    assert error(result, generate_theirs([(make_tensors(), expected, 1.0)])) <= 1e-4
    one = generate(ours, output_type="latent", ip_adapter_image=pictures[0])
    assert error(one, generate_theirs([(make_tensors(), expected[:1], 1.0)])) <= 1e-4


def test_a_file_that_is_listed_twice_is_loaded_once(ours, tencent_folder):
    folder, _ = tencent_folder
    ours.load_ip_adapter([folder / "ipa.pt"] * 2)
    assert ours._ip_adapters[0] is ours._ip_adapters[1]
    ours.set_ip_adapter_scale([0.2, 0.9])
    pictures = [make_picture(seed=seed) for seed in range(2)]
    both = generate(ours, output_type="latent", ip_adapter_image=pictures)
    swapped = generate(ours, output_type="latent", ip_adapter_image=pictures[::-1])
    assert error(swapped, both) > 1e-3


def test_a_folder_of_transformers_is_an_image_tower(ours, tmp_path):
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 12, "patch_size": 4}
    text = {"vocab_size": 8, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1}
    torch.manual_seed(0)
    towers = {
        "clip": CLIPVisionModelWithProjection(CLIPVisionConfig(**vision, projection_dim=EMBED_DIM)),
        "chinese": ChineseCLIPModel(
            ChineseCLIPConfig(
                vision_config=vision, text_config={**text, "num_attention_heads": 2}, projection_dim=EMBED_DIM
            )
        ),
    }
    pixels = preprocess(make_picture(), 12)[None]
    for name, tower in towers.items():
        tower.eval().save_pretrained(tmp_path / name)
        ours.load_ip_adapter(make_tensors(), image_encoder_folder=tmp_path / name)
        with torch.no_grad():
            vision_output = tower.vision_model(pixel_values=pixels).pooler_output
            expected = F.normalize(tower.visual_projection(vision_output), dim=-1)
        with torch.no_grad():
            actual = embed_images(ours.image_encoder, [make_picture()])
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
        ours.unload_ip_adapter()


def test_an_adapter_goes_with_the_components(ours):
    ours.load_ip_adapter(make_tensors())
    ours.set_ip_adapter_scale(0.7)
    embeds = {"ip_adapter_image_embeds": [with_negative(rand_embeds())], "output_type": "latent"}
    other = TextToImagePipeline.from_pipe(ours)
    other.set_progress_bar_config(disable=True)
    assert torch.equal(generate(other, **embeds), generate(ours, **embeds))
