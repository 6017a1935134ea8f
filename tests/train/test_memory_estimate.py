"""The memory estimate against measurements of full models."""

import pytest
import torch
from accelerate import Accelerator

from dianjing.dit import DiT
from dianjing.train import memory_estimate
from dianjing.train.cli import main
from dianjing.train.data.latent_batches import collect_texts
from dianjing.train.data.preparation import index_and_encode
from dianjing.train.memory_estimate import GIB, estimate_cache_bytes, estimate_memory
from dianjing.train.run import build_training
from dianjing.train.step_profile import make_random_inputs, profile_step, track_saved
from dianjing.train.tasks.finetune_model import MOTION_PREFIXES, prepare_transformer
from dianjing.train.trainer.loop import Trainer
from tests.train.finetuning import CPU, extrapolate_saved_bytes, load_transformer_config, make_finetune_config


@pytest.mark.parametrize("layers", [4, 5, 8])
@pytest.mark.parametrize(
    "section", [{"trainable": "all"}, {"trainable": "lora"}, {"trainable": "all", "gradient_checkpointing_interval": 1}]
)
def test_activations_of_a_model_are_extrapolated_to_the_byte(tmp_path, model, finetune_config, layers, section):
    config = finetune_config(tmp_path, changes={"model": section})
    extrapolated, measured = extrapolate_saved_bytes(
        config, model, load_transformer_config(model) | {"num_layers": layers}, (16, 16)
    )
    assert extrapolated == measured


def test_checkpointing_of_every_other_block_is_extrapolated_to_the_byte(tmp_path, model, finetune_config):
    section = {"trainable": "all", "gradient_checkpointing_interval": 2}
    config = finetune_config(tmp_path, changes={"model": section})
    extrapolated, measured = extrapolate_saved_bytes(
        config, model, load_transformer_config(model) | {"num_layers": 12}, (16, 16)
    )
    assert extrapolated == measured


@pytest.mark.parametrize("trainable", ["all", "lora", "controlnet"])
def test_bundled_model_is_estimated(tmp_path, finetune_config, trainable):
    section = {"name": "sticker", "trainable": trainable, "gradient_checkpointing_interval": 1}
    changes = {"model": section, "data": {"size_px": 32}}
    config = finetune_config(tmp_path, changes=changes)
    assert "this fits" in str(list(memory_estimate.describe_finetune_run(config))[-1])


def test_weights_and_moments_are_counted_exactly(tmp_path, model, finetune_config):
    transformer = DiT.from_pretrained(model / "transformer")
    config = finetune_config(tmp_path, changes={"model": {"trainable": "all"}})
    estimate = estimate_memory(config, model, (16, 16), num_processes=1, device=CPU)
    assert (estimate.num_trainable, estimate.num_frozen) == (transformer.num_parameters(), 0)
    assert estimate.weights == estimate.gradients == estimate.averages == 4 * estimate.num_trainable
    assert estimate.optimizer == 8 * estimate.num_trainable
    adapted = finetune_config(tmp_path)
    estimate = estimate_memory(adapted, model, (16, 16), num_processes=1, device=CPU)
    prepared = prepare_transformer(transformer, adapted.model, has_video=False)
    assert estimate.num_trainable == sum(p.numel() for p in prepared.parameters() if p.requires_grad)


@pytest.mark.parametrize(("optimizer", "copies"), [({}, 1), ({"ema_snapshot_every": 5}, 3)])
def test_averages_are_counted_as_in_a_run(tmp_path, model, finetune_config, optimizer, copies):
    changes = {"optimizer": optimizer}
    config = finetune_config(tmp_path / "run", changes=changes)
    config.run.folder.mkdir()
    accelerator = Accelerator(cpu=True)
    trainer = Trainer(build_training(config, None, accelerator), config.run, config.optimizer, accelerator)
    expected_bytes = sum(t.nbytes for each in (trainer.ema, *trainer.posthoc_ema.averages) for t in each.averages)
    estimate = estimate_memory(config, model, (16, 16), num_processes=1, device=CPU)
    assert estimate.averages == expected_bytes == copies * 4 * estimate.num_trainable


def test_gradients_add_to_activations_only_if_both_coexist(tmp_path, model, finetune_config):
    totals = {}
    for name, changes in {
        "one pass": {},
        "accumulation": {"run": {"gradient_accumulation_steps": 2}},
        "checkpointing": {"model": {"gradient_checkpointing_interval": 1}},
    }.items():
        changes = {**changes, "model": {"trainable": "all", **changes.get("model", {})}}
        config = finetune_config(tmp_path, changes=changes)
        estimate = estimate_memory(config, model, (16, 16), num_processes=1, device=CPU)
        permanent = estimate.weights + estimate.optimizer + estimate.averages
        totals[name] = estimate.total - permanent, estimate.gradients, estimate.activations
    temporary, gradients, activations = totals.pop("one pass")
    assert temporary == max(gradients, activations)
    for temporary, gradients, activations in totals.values():
        assert temporary == gradients + activations


@pytest.mark.parametrize(
    ("launch", "weights", "gradients", "optimizer"),
    [
        ({}, 4, 4, 8),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
            4,
            1,
            3,
        ),  # and a copy of weights
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, 4, 4, 3),
    ],
)
def test_estimate_for_four_devices_shards_what_the_launch_shards(
    tmp_path, model, finetune_config, monkeypatch, launch, weights, gradients, optimizer
):
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    config = finetune_config(tmp_path, changes={"model": {"trainable": "all"}}, batch_size=4)
    estimate = estimate_memory(config, model, (16, 16), num_processes=4, device=CPU)
    per_parameter = [
        each / estimate.num_trainable
        for each in (estimate.weights, estimate.gradients, estimate.optimizer, estimate.averages)
    ]
    assert per_parameter == pytest.approx([weights, gradients, optimizer, weights], abs=0.01)


def test_estimate_for_sharded_weights_has_two_unsharded_blocks(tmp_path, model, finetune_config, monkeypatch):
    config = finetune_config(tmp_path, changes={"model": {"trainable": "all"}}, batch_size=4)
    one = estimate_memory(config, model, (16, 16), num_processes=1, device=CPU)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    four = estimate_memory(config, model, (16, 16), num_processes=4, device=CPU)
    block = max(sum(p.nbytes for p in b.parameters()) for b in DiT.from_pretrained(model / "transformer").blocks)
    assert four.weights == one.weights // 4 + 2 * block
    assert four.gradients == one.gradients // 4 + 2 * block
    assert (four.optimizer, four.averages) == (one.optimizer // 4, one.averages // 4)


def test_memory_of_the_cache_is_counted_on_a_cpu_up_to_its_limit(tmp_path, model, finetune_config, monkeypatch):
    config = finetune_config(tmp_path / "run")
    config.run.folder.mkdir()
    index, latent_cache = index_and_encode(config, Accelerator())
    expected_bytes = estimate_cache_bytes(config, model, index)
    for shape, records in index.records.items():
        for record in records:
            latent_cache.load_latents(record, shape)
    for text in collect_texts(index.list_records()):
        for encoder in latent_cache.text_lengths:
            latent_cache.load_text_states(text, encoder)
    assert expected_bytes == pytest.approx(latent_cache.cache.memory.used_bytes, rel=0.1)  # which has masks, too
    arguments = {"shape": (16, 16), "num_processes": 1, "cache_bytes": expected_bytes}
    assert estimate_memory(config, model, **arguments, device=CPU).cache == expected_bytes
    monkeypatch.setattr(memory_estimate, "DEFAULT_MEMORY_BYTES", 100)
    assert estimate_memory(config, model, **arguments, device=CPU).cache == 100


@pytest.mark.parametrize("num_frames", [[], [3]])
def test_motion_weights_are_frozen_without_videos(tmp_path, model, datasets_file, num_frames):
    own = DiT.load_config(model / "transformer")
    video_model = DiT.from_config({**own, "use_motion_blocks": True, "max_regions": 2})
    config = make_finetune_config(
        tmp_path,
        model=model,
        datasets_file=datasets_file,
        changes={"model": {"trainable": "all"}, "data": {"num_frames": num_frames}},
    )
    prepared = prepare_transformer(video_model, config.model, has_video=bool(config.data.num_frames))
    trained = {name.startswith(MOTION_PREFIXES) for name, p in prepared.named_parameters() if p.requires_grad}
    assert trained == ({False, True} if num_frames else {False})


def test_storages_are_counted_once_and_weights_not_at_all():
    layer = torch.nn.Linear(8, 8)
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    x = torch.randn(4, 8, requires_grad=True)
    with track_saved(own) as storages:
        (layer(x) * layer(x).sigmoid()).sum()  # saves x, both products' results and the sigmoid
    assert sum(storages.values()) == (x.nbytes + 3 * 4 * 8 * 4) - 4 * 8 * 4  # the sigmoid's input is not saved


def test_half_the_batch_saves_half_the_bytes(tmp_path, model, finetune_config):
    config = finetune_config(tmp_path, changes={"model": {"trainable": "all"}})
    two, one = (
        profile_step(config, model, load_transformer_config(model), (16, 16), batch_size=rows, device=CPU).saved_bytes
        for rows in (2, 1)
    )
    assert 1.6 < two / one <= 2  # tables of positions and the like do not grow


def test_dry_run_describes_the_run_and_writes_nothing(tmp_path, model, datasets_file, capsys, monkeypatch):
    path = tmp_path / "run.toml"
    main([str(path), "--init"])
    settings = [
        f"run.folder={tmp_path / 'run'}",
        f"model.name={model}",
        "model.lora.rank=8",
        "run.total_steps=500",
        "run.batch_size=4",
        f"data.datasets_file={datasets_file}",
        "data.size_px=16",
        f"data.cache_folder={tmp_path / 'cache'}",
    ]
    arguments = [str(path), *(part for setting in settings for part in ("--set", setting)), "--dry-run"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "9 samples" in output
    assert "500 steps of 4 samples: 166.7 epochs" in output
    assert "this fits" in output
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(memory_estimate, "get_free_memory", lambda device: GIB // 10_000)
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "NOT fit" in output
    assert "model.gradient_checkpointing_interval = 1" in output


def test_random_inputs_have_the_shapes_that_the_model_takes(tmp_path, model):
    transformer = DiT.from_pretrained(model / "transformer")
    inputs = make_random_inputs(
        dict(transformer.config), model, (16, 24), batch_size=3, device=CPU, compute_dtype=torch.float32
    )
    assert transformer(**inputs, return_dict=False)[0].shape == (3, 2, 8, 12)
