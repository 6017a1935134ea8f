"""The documentation's promises are checked: it builds, and its commands, code, run files and links are right."""

import ast
import importlib
import importlib.util
import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from tests.documentation import ALL_PAGES, DOCS, ROOT, find_blocks, find_commands, find_links, get_code_shape, get_shape

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GUIDES = sorted(path.name for path in (DOCS / "guides").glob("*.md") if not path.name.endswith(".zh.md"))
BILINGUAL_PAGES = ["index.md", "quickstart.md", *(f"guides/{name}" for name in GUIDES)]
EXPECTED_GUIDES = {"animate", "conversation", "edit", "files", "finetune", "image", "own-models", "serve", "video"}
OTHER_PROGRAMS = {"curl", "echo", "pip", "printf", "mkdocs"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; warnings are errors."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("docs") / "site"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_has_every_page_in_both_languages(site):
    pages = sorted(str(path.relative_to(DOCS))[:-3] for path in DOCS.rglob("*.md") if not path.name.endswith(".zh.md"))
    assert [page for page in pages if not (site / f"{page}.html").is_file()] == []
    assert [page for page in pages if not (site / f"zh/{page}.html").is_file()] == []
    assert 'lang="zh"' in (site / "zh/quickstart.html").read_text(encoding="utf-8")


def test_the_site_fetches_nothing_from_outside(site):
    loaded = re.compile(r"<(?:script|img|iframe|source|video)[^>]*\bsrc=\"(?:https?:)?//[^\"]*|@import[^;]*https?://")
    style = re.compile(r"<link[^>]*rel=\"(?:stylesheet|icon|preconnect|preload)\"[^>]*href=\"(?:https?:)?//[^\"]*")
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert pages
    assert {
        path.name: found for path, text in pages.items() if (found := loaded.findall(text) + style.findall(text))
    } == {}


def test_the_references_hold_what_the_code_has(site):
    import dianjing
    from dianjing.cli.app import app
    from dianjing.errors import get_messages
    from dianjing.train.config.finetune import FinetuneRunConfig

    command_page, run_page, http_page, python_page = (
        (site / f"reference/{name}.html").read_text(encoding="utf-8") for name in ("cli", "run-file", "http", "python")
    )
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert [name for name in names if f">dianjing {name}<" not in command_page] == []
    assert "--guidance-scale" in command_page
    keys = [*FinetuneRunConfig.model_fields["optimizer"].annotation.model_fields, "datasets_file", "target_modules"]
    assert [key for key in keys if f"<code>{key}</code>" not in run_page] == []
    assert all(path in http_page for path in ("/v1/images/generations", "/v1/videos/{video_id}/content", "/healthz"))
    assert [
        name for name in dianjing.__all__ if name != "__version__" and f'id="dianjing.{name}"' not in python_page
    ] == []
    assert [message_id for message_id in get_messages() if message_id not in python_page] == []
    assert not any("generated:" in page for page in (command_page, run_page, http_page, python_page))


def test_both_languages_have_the_same_guides_and_commands():
    assert {name.removesuffix(".md") for name in GUIDES} == EXPECTED_GUIDES
    for page in BILINGUAL_PAGES:
        english, chinese = f"docs/{page}", f"docs/{page.removesuffix('.md')}.zh.md"
        assert [get_shape(c) for c in find_commands(english)] == [get_shape(c) for c in find_commands(chinese)], page
        codes = ([get_code_shape(block.text) for block in find_blocks(name, "python")] for name in (english, chinese))
        assert next(codes) == next(codes), page
        assert [b.text for b in find_blocks(english, "toml")] == [b.text for b in find_blocks(chinese, "toml")], page


@pytest.mark.parametrize("page", ALL_PAGES)
def test_every_command_is_one_that_exists(page):
    for command in find_commands(page):
        check_command(command)


def test_a_wrong_command_is_noticed():
    for words in (
        ["dianjing", "image", "a cat", "--guidance", "4"],
        ["dianjing", "draw"],
        ["python", "-m", "dianjing.no"],
    ):
        with pytest.raises(AssertionError):
            check_command(words)


def check_command(words: list[str]) -> None:
    """Raise AssertionError for a command that cannot be parsed."""
    program, arguments = words[0], words[1:]
    if program == "python3" and arguments[0] == "run.py":
        if arguments[1] not in ("test", "verify"):
            parse_dianjing(arguments[1:])
    elif program == "dianjing":
        parse_dianjing(arguments)
    elif program in ("python", "accelerate") and "-m" in arguments:
        check_module(arguments[arguments.index("-m") + 1], arguments[arguments.index("-m") + 2 :])
        if "--config_file" in arguments:
            assert (ROOT / arguments[arguments.index("--config_file") + 1]).is_file(), words
    elif program == "pip":
        extras = re.findall(r"\[([\w,]+)\]", " ".join(arguments))
        known = importlib.import_module("configparser").ConfigParser()
        known.read(ROOT / "setup.cfg", encoding="utf-8")
        assert {name for group in extras for name in group.split(",")} <= set(known["options.extras_require"]), words
    elif program == "python" and arguments[0] == "-c":
        compile(arguments[1], "command", "exec")
        endpoints = read_module("demo.page.api_endpoints")
        assert all(f'"{name}"' in endpoints for name in re.findall(r"api_name='/(\w+)'", arguments[1])), words
    elif program == "python":
        assert (ROOT / arguments[0]).is_file(), words
    else:
        assert program in OTHER_PROGRAMS, words


def parse_dianjing(words: list[str]) -> None:
    """Parse a command line as `dianjing` does; nothing is run."""
    from typer.main import get_command

    from dianjing.cli.app import app
    from dianjing.cli.options import CliState

    group = get_command(app)
    name, *arguments = words
    if name == "--help":
        return
    assert name == "COMMAND" or name in group.commands, words
    if "--help" in arguments:
        return
    try:
        parsed = group.commands[name].make_context(name, list(arguments), obj=CliState()).params
    except Exception as error:
        raise AssertionError(f"{words}: {getattr(error, 'message', error)}") from None
    if name == "train":
        from dianjing.train.cli import ACTIONS

        action, path = parsed["arguments"] if len(parsed["arguments"]) == 2 else (None, *parsed["arguments"])
        assert action in (None, *ACTIONS), words
        assert path == "CONFIG" or path.endswith(".toml"), words


def check_module(name: str, arguments: list[str]) -> None:
    """A module that `python -m` can run, and that has the options."""
    if name == "dianjing":
        parse_dianjing(arguments)
        return
    if name == "tests.verify":
        return
    source = read_module(f"{name}.__main__") or read_module(name)
    assert source, f"there is no module {name}"
    assert '__name__ == "__main__"' in source, f"{name} cannot be run"
    for helper in re.findall(rf"^from ({re.escape(name.rpartition('.')[0])}[\w.]*) import", source, re.MULTILINE):
        source += read_module(helper)  # options that several modules of a package share
    options = {word for word in arguments if word.startswith("--")}
    assert {option for option in options if f'"{option}"' not in source} == set(), name


def read_module(name: str) -> str:
    """The source of a module of this repository, empty if there is none."""
    path = ROOT / (name.replace(".", "/") + ".py")
    return path.read_text(encoding="utf-8") if path.is_file() else ""


@pytest.mark.parametrize("page", ALL_PAGES)
def test_the_python_of_a_page_imports_what_there_is(page):
    for block in find_blocks(page, "python"):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dianjing":
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == [], page


PAGES_WITH_CODE = [page for page in ALL_PAGES if any(b.is_run for b in find_blocks(page, "python"))]


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("page", PAGES_WITH_CODE)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (128, 128), "white").save("cat.png")
    code = "\n\n".join(block.text for block in find_blocks(page, "python") if block.is_run)
    exec(compile(code, page, "exec"), {"__name__": "example"})


@pytest.mark.parametrize("page", ALL_PAGES)
def test_the_toml_of_a_page_is_what_it_shows(page):
    from dianjing.train.config.run_file import DatasetsFileConfig, parse_run_config

    for block in find_blocks(page, "toml"):
        tree = tomllib.loads(block.text)
        if "task" in tree:
            parse_run_config(tree, name=page)
        elif "datasets" in tree:
            DatasetsFileConfig.model_validate(tree)
        else:
            assert all({"en", "zh", "example"} == set(entry) for entry in tree.values()), page


@pytest.mark.parametrize("page", [*ALL_PAGES, "CHANGELOG.md"])
def test_every_relative_link_leads_somewhere(page):
    folder = (ROOT / page).parent
    assert [link for link in find_links(page) if link and not (folder / link).exists()] == []


def test_the_figures_are_well_formed_and_name_code_that_exists():
    import xml.etree.ElementTree as ElementTree

    for figure in (DOCS / "figures").glob("*.svg"):
        texts = [node.text or "" for node in ElementTree.parse(figure).iter() if "code" in node.get("class", "")]
        names = [name.strip() for text in texts for name in text.split(",")]
        assert len(names) > 5
        assert [name for name in names if not is_in_the_code(name)] == [], figure.name


def is_in_the_code(name: str) -> bool:
    """True for a module such as "data/loader", with or without a name that it defines, and for a method of `DiT`."""
    module, _, member = name.partition(".")
    if module == "DiT":
        return any(f"def {member}(" in path.read_text(encoding="utf-8") for path in (ROOT / "dit").glob("*.py"))
    folders = [
        ROOT / folder for folder in ("dianjing", "dit", "pipelines", "train", "train/data", "train/trainer", ".")
    ]
    paths = [folder / f"{module}{suffix}" for folder in folders for suffix in (".py", "/__init__.py")]
    sources = [path.read_text(encoding="utf-8") for path in paths if path.is_file()]
    return any(re.search(rf"^(?:def|class) {member}\b", source, re.MULTILINE) or not member for source in sources)


def test_the_glossary_names_what_the_code_has():
    folders = ("dit", "weights", "pipelines", "train", "demo", "dianjing/cli")
    sources = "\n".join(path.read_text(encoding="utf-8") for name in folders for path in (ROOT / name).rglob("*.py"))
    words = set(re.findall(r"\w+", sources))
    rows = re.findall(r"^\| ([^|]+) \|", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    assert len(names) > 50
    assert [name for name in names if not set(name.split(".")) <= words] == []


def test_citation_and_changelog_name_the_version():
    import dianjing

    version = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert version[1] == dianjing.__version__
    assert f"## [{dianjing.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
