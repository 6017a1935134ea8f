"""The commented files that a fine-tuning begins with."""

from pathlib import Path

TEMPLATES = Path(__file__).parent / "finetune"


def write_templates(path: Path) -> list[Path]:
    """A run file at `path`, and the data set file that it names beside it unless there is one.

    Raises: ValueError where a run file is already.
    """
    if path.exists():
        raise ValueError(f"{path} is there already; give another name")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}")
    sets = path.parent / "sets.toml"
    run = (TEMPLATES / "run.toml").read_text(encoding="utf-8")
    path.write_text(run.replace('sets = "sets.toml"', f'sets = "{sets.as_posix()}"'), encoding="utf-8")
    if sets.exists():
        return [path]
    sets.write_text((TEMPLATES / "sets.toml").read_text(encoding="utf-8"), encoding="utf-8")
    return [path, sets]
