"""Mistakes in run files: what was given and what is allowed, in English and Chinese."""

import pytest

from dianjing.errors import DianjingError
from dianjing.train.config.run_file import parse_run_config
from tests.train.tiny import make_run_tree


def parse(folder, section, **values):
    tree = {"task": "text_to_image", **make_run_tree(folder), "model": {"vae": "vae"}}
    tree[section] = {**tree[section], **values}
    with pytest.raises(DianjingError) as error:
        parse_run_config(tree, name="run.toml")
    return error.value


@pytest.mark.parametrize(
    ("values", "english", "chinese"),
    [
        (
            {"batch_size": 0},
            "'run.batch_size' is 0; it must be greater than 0",
            "'run.batch_size' 的值为 0；必须大于 0",
        ),
        ({"seed": "x"}, "'run.seed' is 'x'; give an integer", "'run.seed' 的值为 'x'；应为整数"),
        ({"seed": 1.5}, "'run.seed' is 1.5; give an integer", "应为整数"),
        ({"compile": "all"}, "'run.compile' is 'all'; choose 'none', 'default'", "可选值：'none', 'default'"),
        ({"trackers": 3}, "'run.trackers' is 3; give a list", "应为列表"),
        ({"log_evry": 3}, "unknown key 'run.log_evry'; did you mean 'log_every'?", "是否想写 'log_every'？"),
    ],
    ids=str,
)
def test_a_mistake_is_explained_in_both_languages(tmp_path, values, english, chinese):
    error = parse(tmp_path, "run", **values)
    assert english in error.render("en")
    assert chinese in error.render("zh")


def test_a_section_whose_keys_do_not_go_together_is_explained_in_both_languages(tmp_path):
    error = parse(tmp_path, "optimizer", kind="schedule_free")
    assert "'optimizer': kind is 'schedule_free' with lr_schedule 'cosine'; set lr_schedule = 'constant'" in str(error)
    assert "'optimizer' 部分：kind 为 'schedule_free' 时" in error.render("zh")


def test_mistakes_stand_on_lines_of_their_own(tmp_path):
    error = parse(tmp_path, "run", batch_size=0, total_steps=-1)
    assert str(error).count("\n  ") == 2
    assert error.render("zh").count("\n  ") == 2


def test_long_value_does_not_push_out_of_view_what_is_allowed(tmp_path):
    error = parse(tmp_path, "run", seed={f"key_{index}": list(range(50)) for index in range(50)})
    assert "it must be" in str(error) or "give an integer" in str(error)
    assert len(str(error)) < 250
