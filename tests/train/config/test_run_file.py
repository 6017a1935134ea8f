from pathlib import Path

import pytest

from dianjing.errors import DianjingError
from dianjing.train.config.run_file import parse_run_config, read_dataset_configs, read_run_config, read_toml
from tests.train.tiny import make_run_tree

RECIPES = sorted((Path(__file__).parents[3] / "train" / "recipes").glob("*.toml"))


def tree(folder: Path) -> dict:
    return {"task": "autoencoder", **make_run_tree(folder)}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_read(recipe):
    assert read_run_config(recipe).run.total_steps > 0


def test_unknown_key_names_the_nearest_known_one(tmp_path):
    config = tree(tmp_path)
    config["optimizer"]["learning_rte"] = 1
    with pytest.raises(ValueError, match=r"'optimizer.learning_rte'; did you mean 'learning_rate'"):
        parse_run_config(config)


def test_unknown_key_in_a_list_names_the_nearest_known_one(tmp_path):
    config = tree(tmp_path)
    config["data"]["stages"] = [{"scene_weight": {"single": 1.0}}]
    with pytest.raises(ValueError, match=r"data.stages.0.scene_weight.*did you mean 'scene_weights'"):
        parse_run_config(config)


def test_unknown_section_lists_what_is_known(tmp_path):
    with pytest.raises(ValueError, match="unknown key 'zzz'; known keys: task, run"):
        parse_run_config(tree(tmp_path) | {"zzz": {}})


def test_every_mistake_is_named_at_once(tmp_path):
    config = tree(tmp_path)
    config["run"]["batch_size"] = 0
    del config["optimizer"]["learning_rate"]
    with pytest.raises(ValueError, match="learning_rate") as error:
        parse_run_config(config)
    assert "run.batch_size" in str(error.value)


def test_task_must_be_known(tmp_path):
    with pytest.raises(ValueError, match="choose one of finetune, autoencoder, segmenter, text_to_image"):
        parse_run_config(tree(tmp_path) | {"task": "audio"})


def test_overrides_are_typed_and_strict():
    recipe = RECIPES[0]
    config = read_run_config(recipe, ["run.total_steps=5", "run.folder=elsewhere"])
    assert (config.run.total_steps, config.run.folder) == (5, Path("elsewhere"))
    with pytest.raises(ValueError, match="did you mean 'total_steps'"):
        read_run_config(recipe, ["run.total_step=5"])
    with pytest.raises(ValueError, match="not of the form"):
        read_run_config(recipe, ["run.total_steps"])


def test_config_cannot_be_changed(tmp_path):
    config = parse_run_config(tree(tmp_path))
    with pytest.raises(ValueError, match="frozen"):
        config.run.seed = 3


def test_a_file_says_only_what_differs_from_its_base(tmp_path):
    dit = next(recipe for recipe in RECIPES if recipe.stem == "sticker_dit")
    (tmp_path / "base.toml").write_text(dit.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "more.toml").write_text('base = "base.toml"\n[run]\nseed = 99\n', encoding="utf-8")
    base, more = (read_run_config(tmp_path / f"{name}.toml") for name in ("base", "more"))
    assert more.run.seed == 99
    assert more.model_copy(update={"run": base.run}) == base
    (tmp_path / "base.toml").write_text('base = "more.toml"\n', encoding="utf-8")
    with pytest.raises(ValueError, match="its own base"):
        read_run_config(tmp_path / "more.toml")


def test_a_toml_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbf[[datasets]]\npath = 'x'\n")
    assert read_dataset_configs(tmp_path / "a.toml")[0].path == tmp_path / "x"


def test_other_encodings_of_toml_are_named(tmp_path):
    (tmp_path / "a.toml").write_bytes("# 数据\n[a]\n".encode("gbk"))
    with pytest.raises(DianjingError, match="GBK"):
        read_toml(tmp_path / "a.toml")
    (tmp_path / "a.toml").write_bytes("[a]\n".encode("utf-16"))
    with pytest.raises(DianjingError, match="UTF-16"):
        read_toml(tmp_path / "a.toml")


@pytest.mark.parametrize("path", [r"D:\pictures\cats", r"D:\new\temp", r"C:\Users\me"])
def test_windows_paths_in_toml_get_a_hint(tmp_path, path):
    (tmp_path / "a.toml").write_text(f'[[datasets]]\npath = "{path}"\n')
    with pytest.raises(DianjingError, match="single quotes or with forward slashes"):
        read_dataset_configs(tmp_path / "a.toml")
