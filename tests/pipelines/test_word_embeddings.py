"""Adapters of text encoders with word embeddings: what PEFT saves with them acts as in PEFT, and leaves with them."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file

from dianjing import DianjingError, TextToImagePipeline
from dianjing.weights.formats.lora_export import convert_adapter

# the module that PEFT names, and the one that the encoder reads
EMBEDDINGS = {"text_encoder": "embeddings.word_embeddings", "text_encoder_2": "shared"}
READ = {"text_encoder": "embeddings.word_embeddings", "text_encoder_2": "encoder.embed_tokens"}
TARGETS = ["query", "value", "q", "v"]
CHANGES = ["equal", "rows", "all"]


def make_config(**options):
    return LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": TARGETS, "init_lora_weights": False, **options})


def change_embeddings(weight, change):
    """Train the whole embeddings (tokens, width), or those of three tokens, or none."""
    noise = 0.5 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    rows = {"equal": [], "rows": [5, 7, 9], "all": list(range(len(weight)))}[change]
    with torch.no_grad():
        weight[rows] += noise[rows]


def train_encoders(pipe, change, **options):
    """Tensors as PEFT saves them with embeddings, by component, and the pipeline with PEFT's merged weights."""
    tensors, trained = {}, TextToImagePipeline(**{name: copy.deepcopy(part) for name, part in pipe.components.items()})
    trained.set_progress_bar_config(disable=True)
    for component in EMBEDDINGS:
        torch.manual_seed(0)
        model = getattr(trained, component)
        change_embeddings(model.get_input_embeddings().weight, change)
        inject_adapter_in_model(make_config(**options), model)
        state = get_peft_model_state_dict(model, save_embedding_layers=True)
        tensors[component] = {key: tensor.detach().clone() for key, tensor in state.items()}
    return tensors, trained


def save(pipe, tensors, folder, **options):
    layers = {f"{component}_lora_layers": each for component, each in tensors.items()}
    settings = {f"{component}_lora_adapter_metadata": make_config(**options).to_dict() for component in tensors}
    pipe.save_lora_weights(folder, **layers, **settings)
    return folder


def encode(pipe):
    """The outputs of both text encoders for all tokens that the first one has."""
    ids = torch.arange(len(pipe.tokenizer))[None, :32]
    with torch.no_grad():
        return [getattr(pipe, component)(input_ids=ids).last_hidden_state for component in EMBEDDINGS]


def assert_encodes_as(pipe, expected, tolerance=1e-5):
    torch.testing.assert_close(encode(pipe), encode(expected), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("options", [{}, {"use_rslora": True, "rank_pattern": {"query": 4}}], ids=["LoRA", "rslora"])
def test_saved_word_embeddings_act_as_in_peft_and_leave_with_their_adapter(own_pipe, loaded, tmp_path, change, options):
    tensors, trained = train_encoders(loaded, change, **options)
    names = {component: f"{module}.weight" for component, module in EMBEDDINGS.items()}
    assert all(name in tensors[component] for component, name in names.items())
    own_pipe.load_lora_weights(save(own_pipe, tensors, tmp_path, **options))
    assert_encodes_as(own_pipe, trained)
    adapted = [
        hasattr(getattr(own_pipe, component).get_submodule(module), "base_layer") for component, module in READ.items()
    ]
    assert adapted == [change != "equal"] * 2  # equal ones cost nothing
    own_pipe.fuse_lora()
    assert_encodes_as(own_pipe, trained)
    own_pipe.unfuse_lora()
    own_pipe.unload_lora_weights()
    assert_encodes_as(own_pipe, loaded)
    shared = set(own_pipe.lora_state_dict(tmp_path))
    assert {f"{component}.{name}" for component, name in names.items()} <= shared


def test_the_change_of_word_embeddings_follows_the_weight_of_its_adapter(own_pipe, loaded):
    tensors, trained = train_encoders(loaded, "all")
    alone = {f"text_encoder.{key}": tensor for key, tensor in tensors["text_encoder"].items()}
    own_pipe.load_lora_weights(alone, adapter_name="A")
    own_pipe.load_lora_weights(alone, adapter_name="B")
    base = loaded.text_encoder.get_input_embeddings().weight
    change = trained.text_encoder.get_input_embeddings().weight - base
    for weights in ((0.5, 0.0), (0.5, 0.25), (-1.0, 1.0)):
        own_pipe.set_adapters(["A", "B"], list(weights))
        ids = torch.arange(len(base))
        expected = base + sum(weights) * change
        torch.testing.assert_close(own_pipe.text_encoder.get_input_embeddings()(ids), expected, rtol=1e-5, atol=1e-5)


def test_word_embeddings_are_compared_with_the_weights_without_fused_adapters(own_pipe, loaded):
    tensors, _ = train_encoders(loaded, "rows")
    named = {f"{component}.{key}": tensor for component, each in tensors.items() for key, tensor in each.items()}
    own_pipe.load_lora_weights(named, adapter_name="A")
    own_pipe.fuse_lora()
    own_pipe.load_lora_weights(named, adapter_name="B")  # takes the place of A in the weights
    other = TextToImagePipeline(**{name: copy.deepcopy(part) for name, part in loaded.components.items()})
    other.load_lora_weights(named)
    assert_encodes_as(own_pipe, other)


def test_word_embeddings_that_were_rounded_when_they_were_saved_or_loaded_are_no_change(own_pipe, loaded):
    tensors, _ = train_encoders(loaded, "equal")
    half = {f"{component}.{key}": tensor.half() for component, each in tensors.items() for key, tensor in each.items()}
    full = {key: tensor.float() for key, tensor in half.items()}
    own_pipe.load_lora_weights(half, adapter_name="rounded")
    own_pipe.unload_lora_weights()
    for component in EMBEDDINGS:
        getattr(own_pipe, component).half()
    own_pipe.load_lora_weights(full)
    embeddings = [getattr(own_pipe, component).get_submodule(module) for component, module in READ.items()]
    assert not any(hasattr(module, "base_layer") for module in embeddings)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}], ids=["LoRA", "DoRA"])
def test_lora_of_the_word_embeddings_themselves_acts_as_in_peft(own_pipe, loaded, tmp_path, options):
    targets = {"target_modules": [*TARGETS, "word_embeddings"], **options}
    torch.manual_seed(0)
    model = copy.deepcopy(loaded.text_encoder)
    inject_adapter_in_model(make_config(**targets), model)
    state = {key: tensor.detach().clone() for key, tensor in get_peft_model_state_dict(model).items()}
    assert "embeddings.word_embeddings.lora_embedding_A" in state
    again = copy.deepcopy(loaded.text_encoder)
    inject_adapter_in_model(make_config(**targets), again)
    set_peft_model_state_dict(again, state)
    own_pipe.load_lora_weights(save(own_pipe, {"text_encoder": state}, tmp_path, **targets))
    ids = torch.arange(16)[None]
    for expected in (model, again):
        torch.testing.assert_close(
            own_pipe.text_encoder(ids).last_hidden_state, expected(ids).last_hidden_state, rtol=1e-5, atol=1e-5
        )
    cut = {
        **state,
        "embeddings.word_embeddings.lora_embedding_A": state["embeddings.word_embeddings.lora_embedding_A"][:, 1:],
    }
    with pytest.raises(DianjingError, match="word_embeddings"):
        own_pipe.load_lora_weights({f"text_encoder.{key}": tensor for key, tensor in cut.items()})


@pytest.mark.parametrize(
    ("spoil", "options", "message_id"),
    [
        (lambda weight: weight[:-1], {}, "adapter_embeddings_size"),
        (lambda weight: weight / 0, {}, "adapter_not_finite"),
        (lambda weight: weight, {"use_dora": True}, "adapter_embeddings_setting"),
    ],
)
def test_word_embeddings_that_cannot_be_used_are_refused_before_anything_changes(
    own_pipe, loaded, tmp_path, spoil, options, message_id
):
    tensors, _ = train_encoders(loaded, "rows", **options)
    tensors["text_encoder"][name] = spoil(tensors["text_encoder"][(name := "embeddings.word_embeddings.weight")])
    with pytest.raises(DianjingError) as refusal:
        own_pipe.load_lora_weights(save(own_pipe, tensors, tmp_path, **options))
    assert refusal.value.message_id == message_id
    assert own_pipe.get_list_adapters() == {}
    assert_encodes_as(own_pipe, loaded)


def test_names_that_belong_to_no_embedding_are_refused(own_pipe, loaded):
    tensors, _ = train_encoders(loaded, "equal")
    named = {f"text_encoder.{key}": tensor for key, tensor in tensors["text_encoder"].items()}
    for name, message_id in (
        ("shared.weight", "adapter_of_another_model"),
        ("pooler.weight", "adapter_tensors_unknown"),
    ):
        with pytest.raises(DianjingError) as refusal:
            own_pipe.load_lora_weights({**named, f"text_encoder.{name}": torch.ones(2, 2)})
        assert refusal.value.message_id == message_id


def test_word_embeddings_are_converted_to_the_names_that_can_hold_them(own_pipe, loaded, tmp_path):
    tensors, trained = train_encoders(loaded, "rows")
    folder, out = save(own_pipe, tensors, tmp_path / "adapter"), tmp_path / "out.safetensors"
    with pytest.raises(DianjingError, match="word_embeddings"):
        convert_adapter(folder, out, to="kohya")
    assert not out.exists()
    convert_adapter(folder, out, to="diffusers")
    assert "text_encoder_2.shared.weight" in load_file(out)
    own_pipe.load_lora_weights(out)
    assert_encodes_as(own_pipe, trained)


@pytest.mark.parametrize("to", ["kohya", "comfyui", "diffusers"])
def test_word_embeddings_equal_to_those_of_the_base_are_left_out_when_an_adapter_is_converted(
    own_pipe, loaded, tmp_path, to
):
    tensors, trained = train_encoders(loaded, "equal")
    folder, out = save(own_pipe, tensors, tmp_path / "adapter"), tmp_path / "out.safetensors"
    loaded.save_pretrained(tmp_path / "base")
    convert_adapter(folder, out, to=to, base=tmp_path / "base")
    assert all("lora" in name or name.endswith(".alpha") for name in load_file(out))
    own_pipe.load_lora_weights(out)
    assert_encodes_as(own_pipe, trained)


@pytest.mark.parametrize("change", ["rows", "all"])
def test_trained_word_embeddings_are_refused_with_the_base_too(own_pipe, loaded, tmp_path, change):
    tensors, _ = train_encoders(loaded, change)
    folder, out = save(own_pipe, tensors, tmp_path / "adapter"), tmp_path / "out.safetensors"
    loaded.save_pretrained(tmp_path / "base")
    with pytest.raises(DianjingError) as refusal:
        convert_adapter(folder, out, to="kohya", base=tmp_path / "base")
    assert refusal.value.message_id == "convert_adapter_embeddings"
    assert not out.exists()
