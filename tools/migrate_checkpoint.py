"""Carry the folder of a training run over the renaming of parameters and configuration keys.

    python tools/migrate_checkpoint.py OLD_RUN NEW_RUN

Copies OLD_RUN to NEW_RUN, which must not exist, with the tensors of checkpoints, snapshots and exported transformers
under their new names and bit for bit as they were; a run that is resumed in NEW_RUN continues as OLD_RUN would have.
Run files (TOML) are not changed: name NEW_RUN in a run file with the new keys.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dianjing.train.trainer.checkpoint import read_checkpoint, save_checkpoint

TENSOR_NAMES = {  # of the transformer; a name ends at a dot, a slash (optimizer state) or the end
    "click.patch": "motion_conditioner.first_frame_patch",
    "click.elapsed": "motion_conditioner.frame_embed",
    "click.strength": "motion_conditioner.strength_embed",
    "click.strength_of_region": "motion_conditioner.phrase_strength_embed",
    "click.region": "motion_conditioner.region_embed",
    "click.see_moved": "motion_conditioner.warp_patch",
    "click.taking_over.certain": "motion_conditioner.warp_guidance.class_gate",
    "click.taking_over.clean": "motion_conditioner.warp_guidance.x0_coefficients",
    "click.taking_over.trust": "motion_conditioner.warp_guidance.token_gate",
    "click.field.words": "motion_conditioner.flow_field.text_proj",
    "click.field.elapsed": "motion_conditioner.flow_field.time_proj",
    "click.field.strength": "motion_conditioner.flow_field.strength_proj",
    "click.field.trunk": "motion_conditioner.flow_field.trunk",
    "click.field.affine": "motion_conditioner.flow_field.affine",
    "click.field.place": "motion_conditioner.flow_field.offset_proj",
    "click.field.modulation": "motion_conditioner.flow_field.modulation",
    "click.field.bend": "motion_conditioner.flow_field.residual",
    "network": "unet",  # of the segmenter
}
TENSOR_PATTERN = re.compile(rf"\A(transformer\.)?({'|'.join(map(re.escape, TENSOR_NAMES))})(?=[./]|\Z)")
TRANSFORMER_KEYS = {
    "motion_every": "motion_block_interval",
    "motion_span": "temporal_attention",
    "use_motion_field": "use_flow_field",
}
TEMPORAL_ATTENTION = {"place": "pixelwise", "picture": "full"}
BUCKET_KINDS = {"picture": "image", "click": "controlled"}


def rename_tensor(name: str) -> str:
    """Return the new name of a tensor of a checkpoint, a snapshot or an exported transformer."""
    return TENSOR_PATTERN.sub(lambda match: (match[1] or "") + TENSOR_NAMES[match[2]], name)


def copy_with_new_names(source: Path, target: Path) -> None:
    """Copy a safetensors file and give its tensors their new names."""
    with safe_open(source, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(source)
    renamed = {rename_tensor(name): tensor for name, tensor in tensors.items()}
    if len(renamed) != len(tensors):
        raise ValueError(f"{source}: two tensors would have one name")
    save_file(renamed, target, metadata=metadata)


def migrate_transformer_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config.json of an exported transformer with its new keys and values."""
    config = {TRANSFORMER_KEYS.get(key, key): value for key, value in config.items()}
    if "temporal_attention" in config:
        config["temporal_attention"] = TEMPORAL_ATTENTION[config["temporal_attention"]]
    return config


def migrate_run_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config.json of a run with the new keys that model cards read: those of buckets."""
    buckets = config.get("data", {}).get("buckets")
    if not buckets:
        return config
    buckets = [{"sampling_weight" if key == "share" else key: value for key, value in each.items()} for each in buckets]
    buckets = [{**each, "kind": BUCKET_KINDS.get(each["kind"], each["kind"])} for each in buckets]
    return {**config, "data": {**config["data"], "buckets": buckets}}


def migrate_run(source: Path, target: Path) -> None:
    """Copy a run's folder and rename what is stored in it.

    Raises: ValueError for a checkpoint that does not match its manifest; OSError for a target that exists.
    """
    shutil.copytree(source, target, symlinks=True)
    checkpoints = sorted((source / "checkpoints").glob("step-*"))
    shutil.rmtree(target / "checkpoints", ignore_errors=True)
    for path in checkpoints:
        checkpoint = read_checkpoint(path)
        names = [file.stem for file in sorted(path.glob("*.safetensors"))]
        groups = {
            name: {rename_tensor(key): tensor for key, tensor in checkpoint.load_tensors(name).items()}
            for name in names
        }
        state = {key: value for key, value in checkpoint.load_state().items() if key != "step"}
        save_checkpoint(target / "checkpoints", checkpoint.step, groups, state, max_checkpoints=len(checkpoints))
    for path in source.glob("snapshots/*.safetensors"):
        copy_with_new_names(path, target / path.relative_to(source))
    for path in source.glob("export*/transformer/*.safetensors"):
        copy_with_new_names(path, target / path.relative_to(source))
    for path in source.glob("export*/transformer/config.json"):
        _rewrite_json(path, target / path.relative_to(source), migrate_transformer_config)
    if (source / "config.json").exists():
        _rewrite_json(source / "config.json", target / "config.json", migrate_run_config)


def _rewrite_json(source: Path, target: Path, change: Any) -> None:
    text = json.dumps(change(json.loads(source.read_text(encoding="utf-8"))), ensure_ascii=False, indent=1)
    target.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("old_run", type=Path)
    parser.add_argument("new_run", type=Path)
    arguments = parser.parse_args()
    migrate_run(arguments.old_run, arguments.new_run)
    print(f"{arguments.new_run}: {len(list((arguments.new_run / 'checkpoints').glob('step-*')))} checkpoints")
    return 0


if __name__ == "__main__":
    sys.exit(main())
