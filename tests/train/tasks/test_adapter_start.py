"""Training of an adapter that goes on from one that was saved."""

import pytest
import torch
from peft import get_peft_model_state_dict

from dianjing.errors import DianjingError
from dianjing.train.run import train_model
from tests.train.finetuning import build_setup, get_export_folder
from tests.train.tiny import UNINTERRUPTED

LORA = {"rank": 2, "target_modules": ["to_q", "to_v"]}


@pytest.fixture
def export(tmp_path, finetune_config):
    """The folder of a trained adapter."""
    config = finetune_config(tmp_path / "first", changes={"model": {"lora": LORA}})
    train_model(config, **UNINTERRUPTED)
    return get_export_folder(config)


def build_task(finetune_config, folder, lora):
    return build_setup(finetune_config(folder, changes={"model": {"lora": lora}})).task


def test_training_goes_on_from_the_weights_of_the_adapter(tmp_path, finetune_config, export):
    from safetensors.torch import load_file

    task = build_task(finetune_config, tmp_path / "second", LORA | {"start_from": str(export)})
    saved = load_file(export / "pytorch_lora_weights.safetensors")
    state = {f"transformer.{name}": weight for name, weight in get_peft_model_state_dict(task.transformer).items()}
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], weight) for name, weight in saved.items())
    assert any(weight.abs().max() > 0 for name, weight in state.items() if "lora_B" in name)  # it was trained
    assert all(weight.requires_grad == ("lora_" in name) for name, weight in task.transformer.named_parameters())


@pytest.mark.parametrize(
    "change", [{"rank": 1}, {"alpha": 7.0}, {"target_modules": ["to_q"]}], ids=["rank", "alpha", "layers"]
)
def test_an_adapter_of_other_settings_is_refused(tmp_path, finetune_config, export, change):
    with pytest.raises(DianjingError) as caught:
        build_task(finetune_config, tmp_path / "second", LORA | change | {"start_from": str(export)})
    assert caught.value.message.message_id == "lora_start_mismatch"
