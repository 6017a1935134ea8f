"""A guider guides here as it does around diffusers' own HunyuanDiT2DModel, in the loop that diffusers gives guiders."""

import pytest
import torch
from diffusers import guiders
from diffusers.hooks import LayerSkipConfig
from diffusers.hooks._helpers import (
    AttentionProcessorMetadata,
    AttentionProcessorRegistry,
    TransformerBlockMetadata,
    TransformerBlockRegistry,
)
from diffusers.models.attention_processor import HunyuanAttnProcessor2_0
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.models.transformers.hunyuan_transformer_2d import HunyuanDiTBlock

from dianjing import DianjingError, TextToImagePipeline

PROMPT, NEGATIVE_PROMPT = ["草地上的一只小猫", "two red hearts"], ["a dog", ""]
STEPS, TOLERANCE = 6, 1e-4  # relative L2, float32
LAYERS = [1, 2]
PERTURBED = {"skip_attention": False, "skip_attention_scores": True, "skip_ff": False}


def skip(**options):
    return LayerSkipConfig(indices=list(LAYERS), fqn="blocks", **options)


GUIDERS = {  # mode with its options -> the same guider, made by its class
    "cfg": lambda: guiders.ClassifierFreeGuidance(guidance_scale=4.0),
    "cfg:use_original_formulation": lambda: guiders.ClassifierFreeGuidance(
        guidance_scale=4.0, use_original_formulation=True
    ),
    "interval:start=0.3,stop=0.7": lambda: guiders.ClassifierFreeGuidance(guidance_scale=4.0, start=0.3, stop=0.7),
    "apg:adaptive_projected_guidance_momentum=-0.5,adaptive_projected_guidance_rescale=2.5,eta=0.2": lambda: (
        guiders.AdaptiveProjectedGuidance(
            guidance_scale=4.0,
            adaptive_projected_guidance_momentum=-0.5,
            adaptive_projected_guidance_rescale=2.5,
            eta=0.2,
        )
    ),
    "cfg_zero_star:zero_init_steps=2": lambda: guiders.ClassifierFreeZeroStarGuidance(
        guidance_scale=4.0, zero_init_steps=2
    ),
    "skip_layer:layers=1+2,skip_layer_guidance_start=0.0,skip_layer_guidance_stop=0.9": lambda: (
        guiders.SkipLayerGuidance(
            guidance_scale=4.0, skip_layer_config=skip(), skip_layer_guidance_start=0.0, skip_layer_guidance_stop=0.9
        )
    ),
    "pag:layers=1+2,perturbed_guidance_stop=1.0": lambda: guiders.PerturbedAttentionGuidance(
        guidance_scale=4.0, perturbed_guidance_config=skip(**PERTURBED), perturbed_guidance_stop=1.0
    ),
    "auto:layers=1+2": lambda: guiders.AutoGuidance(guidance_scale=4.0, auto_guidance_config=skip()),
    "tangential": lambda: guiders.TangentialClassifierFreeGuidance(guidance_scale=4.0),
}


@pytest.fixture(scope="module")
def pair(make_hunyuan, tmp_path_factory):
    """Their pipeline, whose blocks diffusers does not list for its hooks, and ours over the same weights."""
    TransformerBlockRegistry.register(HunyuanDiTBlock, TransformerBlockMetadata(return_hidden_states_index=0))
    AttentionProcessorRegistry.register(
        HunyuanAttnProcessor2_0, AttentionProcessorMetadata(skip_processor_output_fn=lambda attn, x, *_, **__: x)
    )
    theirs = make_hunyuan()
    folder = tmp_path_factory.mktemp("guided")
    theirs.save_pretrained(folder)
    ours = TextToImagePipeline.from_pretrained(folder)
    ours.set_progress_bar_config(disable=True)
    return theirs, ours


@pytest.fixture(scope="module")
def noise():
    return torch.randn(len(PROMPT), 4, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def sample_reference(pipe, guider, noise):
    """Sample by diffusers' transformer, as the pipelines of diffusers that have a guider do."""
    model, scheduler = pipe.transformer, pipe.scheduler
    texts = [
        pipe.encode_prompt(PROMPT, negative_prompt=NEGATIVE_PROMPT, text_encoder_index=encoder) for encoder in (0, 1)
    ]
    (embeds, negative, mask, negative_mask), (embeds_2, negative_2, mask_2, negative_mask_2) = texts
    inputs = {
        "encoder_hidden_states": (embeds, negative),
        "text_embedding_mask": (mask, negative_mask),
        "encoder_hidden_states_t5": (embeds_2, negative_2),
        "text_embedding_mask_t5": (mask_2, negative_mask_2),
    }
    constant = {
        "image_meta_size": torch.tensor([[1024.0, 1024, 64, 64, 0, 0]] * len(PROMPT)),
        "style": torch.zeros(len(PROMPT), dtype=torch.long),
        "image_rotary_emb": get_2d_rotary_pos_embed(8, ((0, 0), (32, 32)), (4, 4), output_type="pt"),
        "return_dict": False,
    }
    scheduler.set_timesteps(STEPS)
    latents = noise
    for index, timestep in enumerate(scheduler.timesteps):
        guider.set_state(step=index, num_inference_steps=STEPS, timestep=timestep)
        batches = guider.prepare_inputs(inputs)
        for batch in batches:
            guider.prepare_models(model)
            arguments = {name: getattr(batch, name) for name in inputs}
            output = model(latents, timestep.expand(len(latents)).float(), **arguments, **constant)[0]
            batch.noise_pred = output.chunk(2, dim=1)[0]
            guider.cleanup_models(model)
        latents = scheduler.step(guider(batches)[0], timestep, latents, return_dict=False)[0]
    return latents


def sample(pipe, noise, **settings):
    arguments = {"negative_prompt": NEGATIVE_PROMPT, "num_inference_steps": STEPS, "latents": noise, **settings}
    return pipe(PROMPT, height=64, width=64, output_type="latent", **arguments).images


def error(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("mode", GUIDERS)
def test_a_guider_guides_as_around_their_model(pair, noise, mode):
    theirs, ours = pair
    expected = sample_reference(theirs, GUIDERS[mode](), noise)
    assert error(sample(ours, noise, guider=GUIDERS[mode]()), expected) <= TOLERANCE
    assert error(sample(ours, noise, guider=mode, guidance_scale=4.0), expected) <= TOLERANCE
    plain = sample(ours, noise, guidance_scale=4.0)
    assert mode == "cfg" or error(expected, plain) > 10 * TOLERANCE, "the guider makes a difference"


def test_the_metadata_of_a_guided_image_makes_it_again(pair, noise):
    from dianjing.pipelines.media.metadata import get_sampling_metadata

    ours = pair[1]
    for mode, make in GUIDERS.items():
        first = sample(ours, noise, guider=make())
        settings = get_sampling_metadata(ours)
        again = sample(ours, noise, guider=settings["guider"], guidance_scale=settings["guidance_scale"])
        assert torch.equal(first, again), mode


def test_guidance_in_bfloat16_leaves_out_layers_of_fused_blocks(pair, noise):
    ours = pair[1]
    mode = next(mode for mode in GUIDERS if mode.startswith("skip_layer"))
    expected = sample(ours, noise, guider=mode, guidance_scale=4.0)
    plain = sample(ours, noise, guidance_scale=4.0)
    try:
        ours.to(torch.bfloat16)
        rounded = sample(ours, noise, guider=mode, guidance_scale=4.0).float()
    finally:
        ours.to(torch.float32)
    assert error(rounded, expected) < 0.5 * error(plain, expected)


def test_a_run_that_fails_leaves_no_layer_out(pair, noise):
    ours = pair[1]
    before = sample(ours, noise)

    def fail(*_):
        raise KeyboardInterrupt

    hook = ours.transformer.norm_out.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        sample(ours, noise, guider="auto:layers=1")
    hook.remove()
    assert torch.equal(sample(ours, noise), before)


@pytest.mark.parametrize(
    ("guider", "settings", "message_id"),
    [
        ("cgf", {}, "value_not_allowed"),
        ("apg:eta=", {}, "choice_malformed"),
        ("apg:momentum=1", {}, "choice_option_unknown"),
        ("apg:eta=high", {}, "choice_option_type"),
        ("cfg:start=2", {}, "guider_refused"),
        ("pag:layers=1+9", {}, "guider_layers_out_of_range"),
        (object(), {}, "guider_unfit"),
        (guiders.SmoothedEnergyGuidance(seg_guidance_layers=[1]), {}, "guider_unfit"),
        (guiders.ClassifierFreeGuidance(), {"guidance_scale": 3.0}, "guider_has_own_scale"),
        (guiders.ClassifierFreeGuidance(), {"guidance_rescale": 0.5}, "guider_has_own_scale"),
        (guiders.SkipLayerGuidance(skip_layer_config=LayerSkipConfig(indices=[7])), {}, "guider_layers_out_of_range"),
    ],
)
def test_a_guider_that_cannot_guide_is_refused(pair, noise, guider, settings, message_id):
    with pytest.raises(DianjingError) as raised:
        sample(pair[1], noise, guider=guider, **settings)
    assert raised.value.message_id == message_id


def test_a_single_layer_may_be_a_number_as_diffusers_documents_it(pair, noise):
    options = {"skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 0.9}
    as_number = guiders.SkipLayerGuidance(skip_layer_guidance_layers=2, **options)
    as_list = guiders.SkipLayerGuidance(skip_layer_config=LayerSkipConfig(indices=[2]), **options)
    assert torch.equal(*[sample(pair[1], noise, guider=guider) for guider in (as_number, as_list)])
