"""Fine-tuning, tiny: from files and caches to a LoRA or a folder that pipelines load."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, HunyuanDiT2DModel
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid
from peft import LoraConfig, PeftModel, inject_adapter_in_model, set_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file

from dianjing import TextToImagePipeline
from dianjing.dit import DiT
from dianjing.errors import DianjingError
from dianjing.train.config.finetune import LoraAdapterConfig
from dianjing.train.data.tensor_cache import TensorCache
from dianjing.train.run import export_ema, train_model
from dianjing.train.trainer.loop import Outcome
from tests.train.finetuning import build_setup, get_export_folder, make_finetune_config, overfit
from tests.train.tiny import UNINTERRUPTED

FULL = {"model": {"trainable": "all"}}


def test_lora_changes_images_and_diffusers_class_computes_the_same_with_it(tmp_path, model, finetune_config):
    config = finetune_config(tmp_path / "run", total_steps=12)
    assert train_model(config, **UNINTERRUPTED) is Outcome.FINISHED
    pipe = TextToImagePipeline.from_pretrained(model)
    settings = {"num_inference_steps": 2, "output_type": "np"}
    plain = pipe("小猫", generator=torch.Generator().manual_seed(0), **settings).images
    pipe.load_lora_weights(get_export_folder(config))
    adapted = pipe("小猫", generator=torch.Generator().manual_seed(0), **settings).images
    assert np.abs(adapted - plain).max() > 1e-3

    theirs = HunyuanDiT2DModel.from_pretrained(model / "transformer")
    inject_adapter_in_model(
        LoraConfig(r=2, lora_alpha=2, target_modules=list(LoraAdapterConfig().target_modules)), theirs
    )
    tensors = load_file(get_export_folder(config) / "pytorch_lora_weights.safetensors")
    report = set_peft_model_state_dict(theirs, {name.removeprefix("transformer."): t for name, t in tensors.items()})
    assert not report.unexpected_keys
    inputs = make_transformer_inputs(pipe)
    span = get_resize_crop_region_for_grid((4, 4), 32)
    inputs["image_rotary_emb"] = get_2d_rotary_pos_embed(8, span, (4, 4))
    with torch.no_grad():
        torch.testing.assert_close(pipe.transformer(**inputs)[0], theirs(**inputs)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "settings"), [("loha", {}), ("lokr", {}), ("lokr", {"decompose_factor": 2})])
def test_products_are_trained_and_load_as_peft_and_we_do(tmp_path, model, finetune_config, kind, settings):
    changes = {"model": {"lora": {"rank": 2, "alpha": 3.0, "kind": kind, **settings}}}
    config = finetune_config(tmp_path / "run", changes=changes, total_steps=8)
    assert train_model(config, **UNINTERRUPTED) is Outcome.FINISHED
    folder, plain = get_export_folder(config), DiT.from_pretrained(model / "transformer")
    theirs = PeftModel.from_pretrained(DiT.from_pretrained(model / "transformer"), folder).merge_and_unload()
    pipe = TextToImagePipeline.from_pretrained(model)
    pipe.load_lora_weights(folder, adapter_name="thing")
    assert pipe.get_active_adapters() == ["thing"]
    inputs = make_transformer_inputs(pipe)
    with torch.no_grad():
        adapted, expected, before = (each(**inputs)[0] for each in (pipe.transformer, theirs, plain))
        torch.testing.assert_close(adapted, expected, atol=1e-5, rtol=1e-4)
        assert (adapted - before).abs().max() > 1e-4
        pipe.fuse_lora()
        torch.testing.assert_close(pipe.transformer(**inputs)[0], expected, atol=1e-5, rtol=1e-4)
        pipe.unfuse_lora()
        pipe.set_adapters("thing", 0.0)
        torch.testing.assert_close(pipe.transformer(**inputs)[0], before, atol=1e-5, rtol=1e-4)
        with pytest.raises(DianjingError, match="same method alone"):
            pipe.load_lora_weights({"blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 16)})
        pipe.unload_lora_weights()
        torch.testing.assert_close(pipe.transformer(**inputs)[0], before)


def make_transformer_inputs(pipe):
    """Arguments of a DiT: noise, a timestep and the states of a prompt."""
    torch.manual_seed(0)
    inputs = {"hidden_states": torch.randn(1, 2, 8, 8), "timestep": torch.tensor([500.0]), "return_dict": False}
    for index, suffix in enumerate(("", "_t5")):
        states, _, mask, _ = pipe.encode_prompt("小猫", do_classifier_free_guidance=False, text_encoder_index=index)
        inputs |= {f"encoder_hidden_states{suffix}": states, f"text_embedding_mask{suffix}": mask}
    return inputs


def test_full_export_generates_and_differs_from_the_base_model(tmp_path, model, finetune_config):
    config = finetune_config(tmp_path / "run", changes=FULL)
    assert train_model(config, **UNINTERRUPTED) is Outcome.FINISHED
    base, trained = (
        DiT.from_pretrained(path / "transformer").state_dict() for path in (model, get_export_folder(config))
    )
    assert any(not torch.equal(base[name], trained[name]) for name in base)
    assert TextToImagePipeline.from_pretrained(get_export_folder(config))("小猫", num_inference_steps=1).images


OBJECTIVES = {
    "inherit": {},
    "full": FULL,
    "epsilon": {"objective": {"prediction_type": "epsilon"}},
    "flow": {"objective": {"prediction_type": "flow", "flow_shift": 2.0}, **FULL},
    "LoHa": {"model": {"lora": {"rank": 2, "kind": "loha"}}},
    "LoKr": {"model": {"lora": {"rank": 2, "kind": "lokr"}}},
    "DoRA": {"model": {"lora": {"rank": 2, "kind": "dora"}, "gradient_checkpointing_interval": 2}},
}


@pytest.mark.parametrize("changes", OBJECTIVES.values(), ids=OBJECTIVES)
def test_one_batch_is_overfitted(tmp_path, finetune_config, changes):
    steps = 100 if "objective" in changes else 40  # a flow model starts slowly
    losses = overfit(build_setup(finetune_config(tmp_path / "run", changes=changes)), steps=steps, learning_rate=3e-2)
    assert losses[-1] < 0.8 * losses[0]


def test_gradient_checkpointing_does_not_change_gradients(tmp_path, finetune_config):
    gradients = []
    for every in (0, 1, 2):
        changes = {"model": {"trainable": "all", "gradient_checkpointing_interval": every}}
        setup = build_setup(finetune_config(tmp_path / str(every), changes=changes))
        setup.task(
            setup.batches[0],
            setup.task.sample_noise(setup.batches.schedule.bucket_at(0), torch.Generator().manual_seed(0)),
        )["loss"].backward()
        gradients.append([p.grad for p in setup.task.parameters() if p.requires_grad and p.grad is not None])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0])


def test_batches_hold_the_encoders_output_for_their_samples(tmp_path, model, datasets_file):
    config = make_finetune_config(
        tmp_path / "run",
        model=model,
        datasets_file=datasets_file,
        changes={"objective": {"caption_dropout": 0, "caption_dropout_t5": 0}},
    )
    setup = build_setup(config)
    pipe, vae = TextToImagePipeline.from_pretrained(model), AutoencoderKL.from_pretrained(model / "vae")
    shapes = set()
    for step in range(setup.batches.schedule.steps_per_epoch):
        batch, bucket = setup.batches[step], setup.batches.schedule.bucket_at(step)
        shapes.add((bucket.height, bucket.width))
        for row, latents in enumerate(batch["latents"]):
            sample = setup.batches.schedule.get_sample(step, row)
            pixels = torch.from_numpy(sample.image.copy()).permute(2, 0, 1)[None] / 127.5 - 1
            with torch.no_grad():
                expected = vae.encode(pixels).latent_dist.mode()[0] * vae.config.scaling_factor
                states, _, mask, _ = pipe.encode_prompt(sample.text_zh, do_classifier_free_guidance=False)
            torch.testing.assert_close(latents, expected)
            torch.testing.assert_close(batch["embeds"][row], states[0])
            assert torch.equal(batch["mask"][row], mask[0])
    assert shapes == {(16, 16), (12, 24)}


def test_caption_dropout_is_independent_for_each_encoder(tmp_path, finetune_config):
    changes = {"objective": {"caption_dropout": 1.0, "caption_dropout_t5": 0.0}}
    batch = build_setup(finetune_config(tmp_path / "run", changes=changes)).batches[0]
    assert (batch["mask"].sum(dim=1) == 2).all()  # start and end alone
    assert (batch["mask_t5"].sum(dim=1) > 2).all()


def test_run_resumes_bit_for_bit_and_checkpoints_hold_only_the_adapter(tmp_path, finetune_config):
    runs = {}
    for name, stops in (("uninterrupted", []), ("resumed", [False, False, True])):
        config = finetune_config(tmp_path / name)
        answers = iter([*stops, *[False] * 99])
        while train_model(config, resume="auto", should_stop=lambda a=answers: next(a)) is Outcome.INTERRUPTED:
            pass
        runs[name] = load_file(get_export_folder(config) / "pytorch_lora_weights.safetensors")
    assert runs["uninterrupted"].keys() == runs["resumed"].keys()
    assert all(torch.equal(weight, runs["resumed"][key]) for key, weight in runs["uninterrupted"].items())
    saved = load_file(tmp_path / "uninterrupted" / "checkpoints" / "step-00000006" / "model.safetensors")
    assert saved
    assert all("lora" in name for name in saved)


def test_checkpoint_of_another_adapter_is_refused(tmp_path, model, datasets_file, finetune_config):
    train_model(finetune_config(tmp_path / "run"), **UNINTERRUPTED)
    other = make_finetune_config(
        tmp_path / "run",
        model=model,
        datasets_file=datasets_file,
        changes={"model": {"lora": {"target_modules": ["to_q"]}}},
    )
    with pytest.raises(DianjingError, match="cannot be combined with what is trained"):
        train_model(other, **UNINTERRUPTED)


def test_second_run_reads_everything_from_the_cache(tmp_path, finetune_config, monkeypatch):
    build_setup(finetune_config(tmp_path / "first"))
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    monkeypatch.setattr(AutoencoderKL, "encode", None)
    build_setup(finetune_config(tmp_path / "second"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")} == files
    texts = {"", "小猫", "a balloon", *(p.read_text(encoding="utf-8") for p in (tmp_path / "pictures").glob("*.txt"))}
    assert len(files) == 9 + 2 * len(texts)


def test_another_image_under_the_same_name_is_encoded_again(tmp_path, finetune_config):
    before = build_setup(finetune_config(tmp_path / "first")).batches
    Image.new("RGB", (16, 16), "red").save(tmp_path / "pictures" / "0.png")
    after = build_setup(finetune_config(tmp_path / "second")).batches
    differs = [not torch.equal(before[step]["latents"], after[step]["latents"]) for step in range(5)]
    assert sum(differs) == 1


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch compiles with a C++ compiler")
@pytest.mark.parametrize("compile_full_model", [False, True])
def test_compiled_training_equals_eager_training(tmp_path, finetune_config, compile_full_model):
    changes = {"model": {"trainable": "all", "compile_full_model": compile_full_model}}
    setups = [build_setup(finetune_config(tmp_path / name, changes=changes)) for name in "ab"]
    setups[1].task.compile_modules("default")
    losses, gradients = [], []
    for setup in setups:
        noise = setup.task.sample_noise(setup.batches.schedule.bucket_at(0), torch.Generator().manual_seed(0))
        loss = setup.task(setup.batches[0], noise)["loss"]
        loss.backward()
        losses.append(loss.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in setup.task.parameters() if p.grad is not None]))
    torch.testing.assert_close(*losses)
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[0].norm()


def test_damaged_or_missing_cache_files_are_named(tmp_path):
    cache = TensorCache(tmp_path)
    cache.write("ab12", {"latents": torch.ones(2)})
    assert torch.equal(cache.read("ab12")["latents"], torch.ones(2))
    (tmp_path / "ab" / "ab12.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="damaged"):
        TensorCache(tmp_path).read("ab12")  # as a run that has not read it yet
    with pytest.raises(ValueError, match="missing"):
        cache.read("ab13")


def test_recent_tensors_stay_in_memory_up_to_the_limit(tmp_path):
    TensorCache(tmp_path).write("ab1", {"latents": torch.ones(25)})
    TensorCache(tmp_path).write("ab2", {"latents": torch.zeros(25)})
    TensorCache(tmp_path).write("ab3", {"latents": torch.zeros(1000)})
    cache = TensorCache(tmp_path, memory_bytes=200)
    first = cache.read("ab1")
    cache.read("ab2")
    assert cache.read("ab1") is first
    assert cache.memory.used_bytes == 200
    cache.read("ab3")  # more than the memory takes
    assert cache.memory.used_bytes == 0
    assert cache.read("ab1") is not first
    assert torch.equal(cache.read("ab1")["latents"], torch.ones(25))


def test_cache_that_cannot_be_written_is_named_before_weights_load(tmp_path, finetune_config):
    (tmp_path / "blocked").write_text("a file, no folder")
    changes = {"data": {"cache_folder": str(tmp_path / "blocked" / "cache")}}
    with pytest.raises(ValueError, match="cannot be written"):
        build_setup(finetune_config(tmp_path / "run", changes=changes))


def test_too_many_bad_samples_stop_the_run_with_their_names(tmp_path, finetune_config):
    (tmp_path / "pictures" / "3.png").write_bytes(b"no picture")
    (tmp_path / "pictures" / "4.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match=r"2 of 9(.|\n)*3\.png") as error:
        build_setup(finetune_config(tmp_path / "run"))
    assert "4.png" in str(error.value)
    config = finetune_config(tmp_path / "run", changes={"data": {"max_rejected_fraction": 0.3}})
    build_setup(config)
    report = json.loads((config.run.folder / "data.json").read_text(encoding="utf-8"))
    assert len(report["rejected"]) == 2
    assert len(report["cropped"]) == 3  # the wide ones


def test_unknown_target_module_is_refused_with_the_layers_there_are(tmp_path, finetune_config):
    changes = {"model": {"lora": {"target_modules": ["to_z"]}}}
    with pytest.raises(ValueError, match=r"'to_z'.*to_q"):
        build_setup(finetune_config(tmp_path / "run", changes=changes))


def test_data_set_file_is_strict(tmp_path, finetune_config, datasets_file):
    datasets_file.write_text('[[datasets]]\npaht = "pictures"\n')
    with pytest.raises(ValueError, match="did you mean 'path'"):
        build_setup(finetune_config(tmp_path / "run"))


def test_finished_run_is_exported_again_with_another_average(tmp_path, model, finetune_config):
    config = finetune_config(tmp_path / "run", changes={"optimizer": {"ema_snapshot_every": 2}})
    train_model(config, **UNINTERRUPTED)
    folder = export_ema(config, 0.08)
    first, again = (
        load_file(path / "pytorch_lora_weights.safetensors") for path in (get_export_folder(config), folder)
    )
    assert first.keys() == again.keys()
    assert any(not torch.equal(weight, again[name]) for name, weight in first.items())
    pipe = TextToImagePipeline.from_pretrained(model)
    pipe.load_lora_weights(folder)
    assert pipe("小猫", num_inference_steps=1).images
