"""Fine-tune the bundled model from Python on a folder of images with captions, and export a LoRA adapter.

python examples/fine_tune.py pictures --out runs/example --steps 200

Every image `cat.png` has a caption in `cat.txt`, or one a language in `cat.zh.txt` and `cat.en.txt`.
"""

import argparse
from pathlib import Path

from dianjing.train.config.run_file import parse_run_config
from dianjing.train.run import train_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="a folder of images with captions")
    parser.add_argument("--out", type=Path, default=Path("runs/example"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    datasets_file = arguments.out / "datasets.toml"
    datasets_file.write_text(f'[[datasets]]\npath = "{arguments.images.resolve()}"\n', encoding="utf-8")
    # the same keys as in a run file; `dianjing train CONFIG --init` writes one with all of them
    config = parse_run_config(
        {
            "task": "finetune",
            "run": {"folder": str(arguments.out), "total_steps": arguments.steps, "batch_size": arguments.batch},
            "data": {"datasets_file": str(datasets_file), "size_px": 128, "cache_folder": str(arguments.out / "cache")},
            "optimizer": {"learning_rate": 5e-4, "warmup_steps": 10},
            "model": {"name": "sticker", "trainable": "lora", "lora": {"rank": 16}},
            "samples": {"prompts": ["a cat on the grass"]},
        }
    )
    outcome = train_model(config, resume="auto", should_stop=lambda: False)
    print(f"{outcome.value}: {arguments.out / 'export'}")


if __name__ == "__main__":
    main()
