"""The checks of diffusers' PeftLoraLoaderMixinTests, FluxIPAdapterTesterMixin and PAG tests hold for our pipelines.

What a LoRA should do is computed by its deltas in the weights, and PAG by diffusers' own HunyuanDiTPAGPipeline.
Source: tests/lora/utils.py, tests/pipelines/test_pipelines_common.py and tests/pipelines/pag of diffusers.
"""

import copy

import numpy as np
import pytest
import torch
from diffusers import HunyuanDiTPAGPipeline
from peft import LoraConfig, get_peft_model_state_dict

from dianjing import DiT, TextToImagePipeline
from tests.parity.pipeline_cases import CLASSES, Case, make_case, quiet
from tests.parity.tencent_ip_adapter import make_tensors
from tests.parity.test_text_to_image import error, generate

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
RANK = 4
PAG_SCALE = 3.0


@pytest.fixture(scope="module")
def theirs(make_hunyuan):
    return quiet(make_hunyuan(with_size=False))


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=CLASSES)
def plain(request, folder):
    """A case of each class, whose weights no test changes."""
    return make_case(folder, request.param)


@pytest.fixture
def case(plain):
    """The case with a transformer of its own."""
    return Case(plain.copy_pipe(), plain.call)


@pytest.fixture(scope="module")
def files(folder, tmp_path_factory):
    """Folders of the LoRAs A and B as diffusers' training scripts save them, and their deltas by module."""
    folders, deltas = {}, {}
    for seed, (name, alpha) in enumerate({"A": 8, "B": 2}.items()):
        state, metadata = add_lora(DiT.from_pretrained(folder / "transformer"), alpha=alpha, seed=seed)
        folders[name] = tmp_path_factory.mktemp(name)
        TextToImagePipeline.save_lora_weights(folders[name], state, transformer_lora_adapter_metadata=metadata)
        modules = {key.removesuffix(".lora_A.weight") for key in state if "lora_A" in key}
        deltas[name] = {
            module: alpha / RANK * state[f"{module}.lora_B.weight"] @ state[f"{module}.lora_A.weight"]
            for module in modules
        }
    return folders, deltas


def add_lora(transformer, *, alpha, seed=0):
    """Add a random LoRA as a training script does, and return the tensors and settings that it saves."""
    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=alpha, target_modules=TARGETS, init_lora_weights=False)
    transformer.add_adapter(config)
    for key, parameter in transformer.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.2)
    state = {key: tensor.detach().clone() for key, tensor in get_peft_model_state_dict(transformer).items()}
    return state, config.to_dict()


@pytest.fixture
def expect(plain, files):
    """Images of a case with weighted deltas in the weights."""

    def expect(**weights):
        pipe = plain.copy_pipe()
        for name, weight in weights.items():
            for module, delta in files[1][name].items():
                pipe.transformer.get_submodule(module).weight.data += weight * delta
        return plain.images(pipe)

    return expect


def assert_near(a, b, tolerance=1e-4):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def test_saved_loras_act_alone_and_together_with_their_weights(case, files, expect):
    for name, path in files[0].items():
        case.pipe.load_lora_weights(path, adapter_name=name)
    assert np.abs(expect(A=1.0) - expect()).max() > 1e-2
    assert np.abs(expect(A=1.0) - expect(B=1.0)).max() > 1e-2
    for weights in ({"A": 1.0}, {"B": 1.0}, {"A": 0.5, "B": 0.6}, {"B": -1.0}, {"A": 0.0}):
        case.pipe.set_adapters(list(weights), list(weights.values()))
        assert case.pipe.get_active_adapters() == list(weights)
        assert case.pipe.get_list_adapters() == {"transformer": ["A", "B"]}
        assert_near(case.images(), expect(**weights))
    case.pipe.disable_lora()
    assert_near(case.images(), expect())
    case.pipe.enable_lora()
    case.pipe.set_adapters(["A", "B"])
    case.pipe.delete_adapters("A")
    assert_near(case.images(), expect(B=1.0))
    case.pipe.delete_adapters(["B"])
    assert_near(case.images(), expect())
    case.pipe.load_lora_weights(files[0]["A"], adapter_name="A")  # after it was deleted
    assert_near(case.images(), expect(A=1.0))


def test_loras_are_fused_with_a_scale_unfused_and_unloaded(case, files, expect):
    for name, path in files[0].items():
        case.pipe.load_lora_weights(path, adapter_name=name, low_cpu_mem_usage=True)
    case.pipe.set_adapters(["A", "B"])
    case.pipe.fuse_lora(lora_scale=0.7, safe_fusing=True)
    assert case.pipe.num_fused_loras == 2
    assert_near(case.images(), expect(A=0.7, B=0.7))
    case.pipe.unfuse_lora()
    assert case.pipe.num_fused_loras == 0
    assert_near(case.images(), expect(A=1.0, B=1.0))
    case.pipe.unload_lora_weights()
    assert not hasattr(case.pipe.transformer, "peft_config") or not case.pipe.transformer.peft_config
    assert_near(case.images(), expect())


@pytest.mark.parametrize("alpha", [4, 8, 16])
def test_a_lora_that_was_added_for_training_is_saved_with_its_alpha_and_loaded(case, alpha, tmp_path):
    before = case.images()
    state, metadata = add_lora(case.pipe.transformer, alpha=alpha)
    added = case.images()
    assert np.abs(added - before).max() > 1e-2
    case.pipe.save_lora_weights(tmp_path, state, transformer_lora_adapter_metadata=metadata)
    assert (tmp_path / "pytorch_lora_weights.safetensors").is_file()
    case.pipe.unload_lora_weights()
    assert_near(case.images(), before)
    case.pipe.load_lora_weights(tmp_path)
    assert_near(case.images(), added)
    assert case.pipe.lora_state_dict(tmp_path, return_lora_metadata=True)[1]["transformer.lora_alpha"] == alpha


def test_wrong_names_of_adapters_are_refused(case, files):
    case.pipe.load_lora_weights(files[0]["A"], adapter_name="A")
    for names in ("nope", ["A", "nope"]):
        with pytest.raises(ValueError, match="nope"):
            case.pipe.set_adapters(names)
    with pytest.raises(ValueError, match="A"):
        case.pipe.load_lora_weights(files[0]["B"], adapter_name="A")


@pytest.fixture
def pictured(plain, folder):
    class_name = next(name for name, (each, _) in CLASSES.items() if type(plain.pipe) is each)
    return make_case(folder, class_name, "IP-Adapter")


@pytest.mark.parametrize("count", [1, 2])
def test_ip_adapters_act_by_their_scales(plain, pictured, count):
    pipe, pictures = pictured.pipe, [pictured.call["ip_adapter_image"]] * count
    pipe.load_ip_adapter([make_tensors(seed) for seed in range(count)])
    settings = {"ip_adapter_image": pictures if count > 1 else pictures[0]}
    pipe.set_ip_adapter_scale([0.0] * count)
    assert_near(pictured.images(**settings), plain.images())
    pipe.set_ip_adapter_scale([42.0] * count)
    acting = pictured.images(**settings)
    assert np.abs(acting - plain.images()).max() > 1e-2
    assert pictured.images(**settings, guidance_scale=1.0).shape == acting.shape
    pipe.unload_ip_adapter()
    assert_near(plain.images(pipe), plain.images())


@pytest.mark.parametrize("layers", [[0], [1], [1, 2], [0, 1, 2, 3]], ids=str)
@pytest.mark.parametrize("scale", [0.0, PAG_SCALE])
def test_pag_is_that_of_diffusers_pipeline_in_the_layers_that_it_names(theirs, folder, layers, scale):
    blocks = [f"blocks.{layer}" for layer in layers]
    parts = {**theirs.components, "transformer": copy.deepcopy(theirs.transformer)}
    reference = quiet(HunyuanDiTPAGPipeline(**parts, requires_safety_checker=False, pag_applied_layers=blocks))

    def begin(pipe, index, timestep, tensors):
        """Guide from the second step on, as diffusers' PerturbedAttentionGuidance does."""
        pipe._pag_scale = scale
        return tensors

    started = {"pag_scale": 1e-12, "callback_on_step_end": begin} if scale else {"pag_scale": 0.0}
    expected = generate(reference, output_type="latent", **started)
    ours = quiet(TextToImagePipeline.from_pretrained(folder))
    mode = f"pag:layers={'+'.join(map(str, layers))},perturbed_guidance_scale={scale}"
    mode += ",perturbed_guidance_start=0.0,perturbed_guidance_stop=1.0"
    assert error(generate(ours, output_type="latent", guider=mode, guidance_scale=5.0), expected) <= 1e-4
    plain = generate(ours, output_type="latent", guidance_scale=5.0)
    assert (error(plain, expected) > 1e-3) == (scale > 0)


def test_pag_is_disabled_by_a_scale_of_zero_in_every_pipeline(plain):
    mode = "pag:layers=1+2,perturbed_guidance_start=0.0,perturbed_guidance_stop=1.0,perturbed_guidance_scale"
    unguided = plain.images(num_inference_steps=4)
    assert_near(plain.images(num_inference_steps=4, guider=f"{mode}=0.0"), unguided, 1e-3)
    guided = plain.images(num_inference_steps=4, guider=f"{mode}={PAG_SCALE}")
    assert np.abs(guided - unguided).max() > 1e-3
