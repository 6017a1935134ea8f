"""LoRA adapters: formats and scales against PEFT's own, refusals that change nothing, methods in every order."""

import copy
import json
import shutil

import diffusers
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from dianjing import DianjingError, TextToImagePipeline

TARGETS = ["attn1.to_q", "attn1.to_v", "attn2.to_out.0"]
RANK, ALPHA = 2, 6.0


def snapshot(pipe):
    return {name: tensor.clone() for name, tensor in pipe.transformer.state_dict().items()}


def assert_unchanged(pipe, before):
    after = pipe.transformer.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert pipe.get_list_adapters() == {}


def assert_close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def save_peft_folder(pipe, folder, *, seed=0, **options):
    """Save a random adapter by PEFT; return the latents of a pipeline with PEFT's merged weights."""
    torch.manual_seed(seed)
    config = LoraConfig(
        **{"r": RANK, "lora_alpha": ALPHA, "target_modules": TARGETS, "init_lora_weights": False, **options}
    )
    model = get_peft_model(copy.deepcopy(pipe.transformer), config)
    model.save_pretrained(folder)
    return model.merge_and_unload()


def generate_with(pipe, transformer, generate_latents):
    return generate_latents(TextToImagePipeline(**{**pipe.components, "transformer": transformer}))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"attn1.to_q": 4}, "alpha_pattern": {"attn1.to_v": 1}},
        {"target_modules": r"blocks\.[12]\.attn1\.to_[qk]"},
        {"lora_bias": True},
        {"layers_to_transform": [1], "layers_pattern": "blocks", "target_modules": ["to_q"]},
    ],
    ids=str,
)
def test_a_folder_by_peft_acts_as_in_peft(own_pipe, generate_latents, tmp_path, options):
    expected = generate_with(own_pipe, save_peft_folder(own_pipe, tmp_path, **options), generate_latents)
    plain = generate_latents(own_pipe)
    own_pipe.load_lora_weights(tmp_path)
    assert_close(generate_latents(own_pipe), expected, 1e-4)
    assert (expected - plain).abs().max() > 1e-2
    own_pipe.unload_lora_weights()
    assert_close(generate_latents(own_pipe), plain, 1e-4)
    own_pipe.load_lora_weights(tmp_path / "adapter_model.safetensors")  # the configuration lies beside it
    assert_close(generate_latents(own_pipe), expected, 1e-4)


@pytest.fixture
def adapter(own_pipe):
    """Tensors (rank 2) of an adapter under the transformer's names, and what they add to the weights at scale 1."""
    generator = torch.Generator().manual_seed(0)
    tensors, deltas = {}, {}
    for name, module in own_pipe.transformer.named_modules():
        if name.endswith(("attn1.to_q", "attn1.to_v")):
            down = torch.randn(RANK, module.in_features, generator=generator)
            up = torch.randn(module.out_features, RANK, generator=generator)
            tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
            deltas[name] = up @ down
    return tensors, deltas


def rename(tensors, prefix="", down="lora_A.weight", up="lora_B.weight"):
    return {
        prefix + name.replace("lora_A.weight", down).replace("lora_B.weight", up): tensor
        for name, tensor in tensors.items()
    }


def get_deltas(pipe, before, names):
    """What fusing added to the weights."""
    pipe.fuse_lora()
    weights = {name: pipe.transformer.get_submodule(name).base_layer.weight for name in names}
    return {name: weight - before[f"{name}.weight"] for name, weight in weights.items()}


@pytest.mark.parametrize(
    "names",
    [
        {},
        {"prefix": "transformer."},
        {"prefix": "diffusion_model."},
        {"down": "lora_A.default.weight", "up": "lora_B.default.weight"},
        {"down": "lora_down.weight", "up": "lora_up.weight"},
        {"prefix": "transformer.", "down": "lora.down.weight", "up": "lora.up.weight"},
    ],
    ids=str,
)
@pytest.mark.parametrize("alpha", [None, 6.0, 0.0])
def test_names_and_alphas_of_published_files_are_read(own_pipe, adapter, tmp_path, names, alpha):
    tensors, deltas = adapter
    alphas = {} if alpha is None else {f"{names.get('prefix', '')}{name}.alpha": torch.tensor(alpha) for name in deltas}
    save_file({**rename(tensors, **names), **alphas}, tmp_path / "adapter.safetensors")
    before = snapshot(own_pipe)
    own_pipe.load_lora_weights(tmp_path / "adapter.safetensors")
    scale = alpha / RANK if alpha else 1.0
    for name, delta in get_deltas(own_pipe, before, deltas).items():
        assert_close(delta, scale * deltas[name])


def test_each_module_may_have_its_own_alpha(own_pipe, adapter):
    tensors, deltas = adapter
    scales = {name: float(index + 1) for index, name in enumerate(deltas)}
    first = next(iter(scales))
    alphas = {f"{name}.alpha": torch.tensor(scale * RANK) for name, scale in scales.items() if name != first}
    before = snapshot(own_pipe)
    own_pipe.load_lora_weights({**tensors, **alphas})
    for name, delta in get_deltas(own_pipe, before, deltas).items():
        assert_close(delta, scales[name] * deltas[name])


def change(tensors, **changes):
    first = next(iter(tensors))
    return {**tensors, first: changes["first"](tensors[first])}


@pytest.mark.parametrize(
    ("spoil", "message_id", "text"),
    [
        (lambda t: change(t, first=lambda x: torch.full_like(x, torch.nan)), "adapter_not_finite", r"to_q\.lora_A"),
        (lambda t: change(t, first=lambda x: x / 0), "adapter_not_finite", r"to_q\.lora_A"),
        (lambda t: {**t, "blocks.0.attn1.to_q.alpha": torch.tensor(torch.nan)}, "adapter_not_finite", "alpha"),
        (lambda t: dict(list(t.items())[1:]), "adapter_incomplete", r"blocks\.0\.attn1\.to_q"),
        (lambda t: change(t, first=lambda x: x[:, :5]), "adapter_sizes_mismatch", r"\(2, 5\)"),
        (lambda t: {**t, "proj_out.weight": torch.ones(2, 2)}, "adapter_tensors_unknown", "proj_out"),
        (lambda t: {**t, "blocks.0.attn1.to_q.lora_C.weight": torch.ones(2, 2)}, "adapter_tensors_unknown", "lora_C"),
        (lambda t: rename(t, prefix="double_blocks."), "adapter_of_another_model", "double_blocks"),
        (lambda t: {"x": torch.ones(2)}, "adapter_without_lora", "no LoRA"),
        (lambda t: {}, "adapter_without_lora", "no LoRA"),
        (
            lambda t: {**rename(t, down="lora_A.a.weight"), **rename(t, down="lora_A.b.weight")},
            "adapter_file_of_several",
            "several",
        ),
        (
            lambda t: {f"lora_unet_{n.replace('.', '_')}": x for n, x in t.items()},
            "adapter_format_unsupported",
            "kohya",
        ),
        (lambda t: {"blocks.0.attn1.Wqkv.lora_A.weight": torch.ones(2, 16)}, "adapter_format_unsupported", "Tencent"),
        (lambda t: {"blocks.0.attn1.to_q.hada_w1_a": torch.ones(2, 16)}, "adapter_format_unsupported", "LoHa"),
        (lambda t: {"blocks.0.attn1.to_q.lokr_w1": torch.ones(2, 16)}, "adapter_format_unsupported", "LoKr"),
        (lambda t: {**t, "blocks.0.attn1.to_q.dora_scale": torch.ones(2)}, "adapter_format_unsupported", "DoRA"),
        (lambda t: {**t, "text_encoder.x.lora_A.weight": torch.ones(2)}, "adapter_format_unsupported", "text encoders"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_refused_before_anything_changes(
    own_pipe, adapter, tmp_path, spoil, message_id, text
):
    before, tensors = snapshot(own_pipe), spoil(adapter[0])
    sources = [tensors]
    if tensors:
        save_file(
            {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, tmp_path / "adapter.safetensors"
        )
        sources += [tmp_path / "adapter.safetensors", tmp_path]
    for source in sources:
        with pytest.raises(DianjingError, match=text) as refusal:
            own_pipe.load_lora_weights(source)
        assert refusal.value.message_id == message_id
        assert_unchanged(own_pipe, before)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"peft_type": "LOHA"}, "PEFT LOHA"),
        ({"r": 4}, "sizes"),
        ({"modules_to_save": ["proj_out"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"bias": "all"}, "bias"),
        ({"setting_of_the_future": 2}, "setting_of_the_future"),
    ],
)
def test_a_configuration_by_peft_that_is_not_followed_is_refused(own_pipe, tmp_path, changes, text):
    save_peft_folder(own_pipe, tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    before = snapshot(own_pipe)
    with pytest.raises(DianjingError, match=text):
        own_pipe.load_lora_weights(tmp_path)
    assert_unchanged(own_pipe, before)


def test_weights_by_peft_without_their_configuration_are_refused(own_pipe, tmp_path):
    save_peft_folder(own_pipe, tmp_path / "adapter")
    shutil.move(tmp_path / "adapter" / "adapter_model.safetensors", tmp_path / "alone.safetensors")
    with pytest.raises(DianjingError, match=r"adapter_config\.json"):
        own_pipe.load_lora_weights(tmp_path / "alone.safetensors")


@pytest.fixture
def two_adapters(own_pipe, adapter, tmp_path):
    """A pipeline with adapters A and B, both loaded."""
    tensors, _ = adapter
    own_pipe.load_lora_weights(tensors, adapter_name="A")
    other = {name: torch.flip(tensor, (0, 1)) for name, tensor in tensors.items()}
    own_pipe.load_lora_weights({name: 0.5 * tensor for name, tensor in other.items()}, adapter_name="B")
    return own_pipe


def test_fusing_one_of_two_active_adapters_is_refused(two_adapters, generate_latents):
    two_adapters.set_adapters(["A", "B"], [1.0, 0.5])
    both = generate_latents(two_adapters)
    with pytest.raises(DianjingError, match=r"fuse B and drop A"):
        two_adapters.fuse_lora(adapter_names=["B"])
    assert_close(generate_latents(two_adapters), both, 1e-4)
    two_adapters.fuse_lora(adapter_names=["A", "B"])
    assert_close(generate_latents(two_adapters), both, 1e-4)
    assert two_adapters.fused_loras == {"A", "B"}


@pytest.mark.parametrize(
    "act",
    [
        lambda pipe: pipe.set_adapters("nope"),
        lambda pipe: pipe.set_adapters(["A", "nope"]),
        lambda pipe: pipe.fuse_lora(adapter_names=["nope"]),
        lambda pipe: pipe.delete_adapters("nope"),
        lambda pipe: pipe.delete_adapters(["A", "nope"]),
    ],
)
def test_an_unknown_adapter_is_refused_with_those_that_are_loaded(two_adapters, generate_latents, act):
    before = generate_latents(two_adapters)
    with pytest.raises(DianjingError, match=r"nope.*loaded: A, B"):
        act(two_adapters)
    assert_close(generate_latents(two_adapters), before, 1e-4)


@pytest.mark.parametrize(
    "act",
    [
        lambda pipe, tensors: pipe.load_lora_weights(tensors, adapter_name="C"),
        lambda pipe, tensors: pipe.set_adapters("B"),
        lambda pipe, tensors: pipe.set_adapters("A", 0.1),
        lambda pipe, tensors: pipe.delete_adapters("A"),
        lambda pipe, tensors: pipe.disable_lora(),
    ],
)
def test_what_fused_adapters_would_hide_or_spoil_is_refused(two_adapters, adapter, generate_latents, act):
    plain = snapshot(two_adapters)
    two_adapters.set_adapters("A")
    active = generate_latents(two_adapters)
    two_adapters.fuse_lora()
    with pytest.raises(DianjingError, match=r"A are fused.*unfuse_lora"):
        act(two_adapters, adapter[0])
    assert_close(generate_latents(two_adapters), active, 1e-4)
    two_adapters.unfuse_lora()
    assert_close(generate_latents(two_adapters), active, 1e-4)
    for name, tensor in two_adapters.transformer.state_dict().items():
        assert_close(tensor, plain[name])


def test_unfusing_gives_back_what_was_there_before_a_scaled_fusion(two_adapters, generate_latents):
    two_adapters.set_adapters("A", 0.5)
    half = generate_latents(two_adapters)
    two_adapters.set_adapters("A", 1.0)
    whole = generate_latents(two_adapters)
    for _ in range(2):
        two_adapters.fuse_lora(lora_scale=0.5)
        assert_close(generate_latents(two_adapters), half, 1e-4)
        two_adapters.unfuse_lora()
        assert_close(generate_latents(two_adapters), whole, 1e-4)
    assert two_adapters.num_fused_loras == 0


def test_fused_adapters_stay_when_they_are_unloaded_and_others_can_follow(two_adapters, adapter, generate_latents):
    two_adapters.set_adapters(["A", "B"])
    both = generate_latents(two_adapters)
    two_adapters.set_adapters("A")
    two_adapters.fuse_lora()
    two_adapters.unload_lora_weights()
    assert two_adapters.num_fused_loras == 0
    other = {name: 0.5 * torch.flip(tensor, (0, 1)) for name, tensor in adapter[0].items()}
    two_adapters.load_lora_weights(other, adapter_name="B")
    assert_close(generate_latents(two_adapters), both, 1e-4)


def test_deleting_an_adapter_activates_no_other(two_adapters, own_pipe, generate_latents):
    two_adapters.set_adapters("B")
    only_b = generate_latents(two_adapters)
    two_adapters.set_adapters(["A", "B"])
    two_adapters.delete_adapters("A")
    assert_close(generate_latents(two_adapters), only_b, 1e-4)
    assert two_adapters.get_active_adapters() == ["B"]
    two_adapters.delete_adapters("B")
    assert two_adapters.get_list_adapters() == {}


def test_deleting_the_only_active_adapter_leaves_the_model_alone(own_pipe, adapter, generate_latents):
    plain = generate_latents(own_pipe)
    own_pipe.load_lora_weights(adapter[0], adapter_name="A")
    own_pipe.load_lora_weights(adapter[0], adapter_name="B")
    own_pipe.set_adapters("A")
    own_pipe.delete_adapters("A")
    assert own_pipe.get_active_adapters() == []
    assert_close(generate_latents(own_pipe), plain, 1e-4)


def test_adapters_without_names_get_free_ones(own_pipe, adapter):
    own_pipe.load_lora_weights(adapter[0])
    own_pipe.load_lora_weights(adapter[0])
    own_pipe.delete_adapters("default_0")
    own_pipe.load_lora_weights(adapter[0])
    assert sorted(own_pipe.get_list_adapters()["transformer"]) == ["default_0", "default_1"]


@pytest.mark.parametrize("name", ["", "my.style", "A"])
def test_a_name_that_cannot_be_used_is_refused(two_adapters, adapter, name):
    with pytest.raises(DianjingError, match="adapter name"):
        two_adapters.load_lora_weights(adapter[0], adapter_name=name)


def test_a_compiled_transformer_takes_adapters(own_pipe, adapter, generate_latents):
    plain = generate_latents(own_pipe)
    own_pipe.load_lora_weights(adapter[0], adapter_name="A")
    adapted = generate_latents(own_pipe)
    own_pipe.unload_lora_weights()
    own_pipe.transformer = torch.compile(own_pipe.transformer, backend="eager")
    own_pipe.load_lora_weights(adapter[0], adapter_name="A")
    assert_close(generate_latents(own_pipe), adapted, 1e-4)
    own_pipe.set_adapters("A", 0.0)
    assert_close(generate_latents(own_pipe), plain, 1e-4)
    own_pipe.set_adapters("A")
    own_pipe.fuse_lora()
    assert own_pipe.fused_loras == {"A"}
    assert_close(generate_latents(own_pipe), adapted, 1e-4)
    own_pipe.unfuse_lora()
    own_pipe.disable_lora()
    assert_close(generate_latents(own_pipe), plain, 1e-4)
    own_pipe.enable_lora()
    own_pipe.delete_adapters("A")
    assert own_pipe.get_active_adapters() == []
    assert_close(generate_latents(own_pipe), plain, 1e-4)
    assert isinstance(own_pipe.transformer, torch._dynamo.eval_frame.OptimizedModule)


def test_an_adapter_of_another_prediction_brings_its_scheduler_until_it_is_unloaded(own_pipe, adapter, tmp_path):
    own = own_pipe.scheduler
    save_file(adapter[0], tmp_path / "pytorch_lora_weights.safetensors")
    changed = diffusers.DDIMScheduler.from_config(own.config, prediction_type="epsilon")
    changed.save_pretrained(tmp_path / "scheduler")
    own_pipe.load_lora_weights(tmp_path, adapter_name="A")
    assert own_pipe.scheduler.config.prediction_type == "epsilon"
    own_pipe("a cat", num_inference_steps=1, output_type="latent")
    own_pipe.delete_adapters("A")
    assert own_pipe.scheduler is own
    own.save_pretrained(tmp_path / "scheduler")
    own_pipe.load_lora_weights(tmp_path)
    assert own_pipe.scheduler is own
