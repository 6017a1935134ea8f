"""The wheel holds all packages and data of the repository; an unlisted package would only work when editable."""

import ast
import configparser
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ["dit", "weights", "pipelines", "train", "demo"]
NOT_SHIPPED = ["__pycache__", "*.pyc", ".*"]


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def listed_packages() -> list[str]:
    return setup_cfg()["options"]["packages"].split()


def package_folders() -> dict[str, Path]:
    lines = setup_cfg()["options"]["package_dir"].strip().splitlines()
    pairs = (line.split("=") for line in lines)
    return {name.strip(): ROOT / folder.strip() for name, folder in pairs}


def packages_on_disk() -> list[str]:
    found = ["dianjing", "dianjing.cli"]
    for floor in FLOORS:
        for init in (ROOT / floor).rglob("__init__.py"):
            found.append(".".join(["dianjing", *init.parent.relative_to(ROOT).parts]))
    return sorted(found)


def shipped_files(root: Path = ROOT) -> set[str]:
    """Every tracked or new file under the package folders, under its name in the wheel."""
    listing = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        output = subprocess.run([*listing, *FLOORS, "dianjing"], cwd=root, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a git checkout")
    files = set()
    for name in output.stdout.decode().split("\0"):
        path = root / name
        if name and path.is_file() and not any(fnmatch.fnmatch(path.name, p) for p in NOT_SHIPPED):
            files.add(name if name.startswith("dianjing/") else f"dianjing/{name}")
    return files


def copy_of_the_tree(target: Path) -> Path:
    """The files a wheel is built from; symlinks stay symlinks."""
    for floor in [*FLOORS, "dianjing"]:
        if (ROOT / floor).exists():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / floor, target / floor, symlinks=True, ignore=ignore)
    for name in ["setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE"]:
        shutil.copy(ROOT / name, target / name)
    return target


def build_wheel(source: Path, out: Path) -> Path:
    command = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", command, str(out)],
        cwd=source,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("setuptools", minversion="77")
    source = copy_of_the_tree(tmp_path_factory.mktemp("source"))
    out = tmp_path_factory.mktemp("wheel")
    return build_wheel(source, out)


@pytest.fixture(scope="module")
def wheel_names(wheel) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_package_list_equals_the_tree():
    assert sorted(listed_packages()) == packages_on_disk()


def test_every_listed_package_is_mapped_to_its_folder():
    folders = package_folders()
    assert sorted(folders) == sorted(listed_packages())
    for name, folder in folders.items():
        _, *parts = name.split(".")
        in_root_package = not parts or parts[0] not in FLOORS
        assert folder == ROOT.joinpath(*(["dianjing", *parts] if in_root_package else parts))


def test_every_floor_is_linked_from_the_import_root():
    for floor in FLOORS:
        link = ROOT / "dianjing" / floor
        assert link.is_symlink() == (ROOT / floor).is_dir(), floor
        if link.is_symlink():
            assert os.readlink(link) == f"../{floor}"


def test_the_wheel_holds_every_package_and_data_file(wheel_names):
    missing = shipped_files() - wheel_names
    assert not missing, f"not in the wheel (add to setup.cfg's package_data): {sorted(missing)}"


def test_the_wheel_holds_nothing_else(wheel_names):
    content = {name for name in wheel_names if ".dist-info/" not in name}
    assert content <= shipped_files()


def test_the_wheel_carries_licence_and_notice(wheel_names):
    names = {Path(name).name for name in wheel_names if ".dist-info/" in name}
    assert {"LICENSE", "NOTICE", "entry_points.txt"} <= names


def test_the_command_runs_from_an_unpacked_wheel(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import dianjing, dianjing.train.stickers, dianjing.cli.app; from dianjing.cli.models import list_models; "
        "from dianjing.cli.options import print_json; print(dianjing.__file__); print_json(list_models())"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    home, rows = done.stdout.split("\n", 1)
    assert Path(home).is_relative_to(tmp_path)
    has_bundle = (ROOT / "weights" / "sticker" / "model_index.json").is_file()  # it ships once it is trained
    assert json.loads(rows)[0]["location"] == ("bundled" if has_bundle else "missing")


IMPORT_NAMES = {
    "PIL": "pillow",
    "c2pa": "c2pa-python",
    "cv2": "opencv-python-headless",
    "opencc": "opencc-python-reimplemented",
}


def named(lines):
    return {re.match(r"[\w-]+", line)[0] for line in lines.strip().splitlines()}


def imported_libraries(nodes):
    """Return the imported libraries by their names for pip, without the standard library and this repository."""
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module and not n.level]
    found = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"dianjing", "benchmarks"}
    return {IMPORT_NAMES.get(name, name.replace("_", "-")) for name in found}


def imported_modules(nodes):
    """Modules of this package that are imported."""
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if name.startswith("dianjing.")}


def test_every_library_that_is_imported_is_declared():
    """Libraries of the extras are imported inside functions, or in modules that are imported inside functions."""
    config = setup_cfg()
    always = named(config["options"]["install_requires"])
    extras = set().union(*(named(v) for k, v in config["options.extras_require"].items() if k != "dev"))
    trees = {}
    for name in shipped_files():
        if name.endswith(".py"):
            path = ROOT / name if (ROOT / name).is_file() else ROOT / name.removeprefix("dianjing/")
            trees[name.removesuffix(".py").replace("/", ".")] = ast.parse(path.read_text(encoding="utf-8"))
    always_imported = set().union(*(imported_modules(tree.body) for tree in trees.values()))
    for name, tree in trees.items():
        is_lazy = name not in always_imported and not name.endswith("__init__")
        assert imported_libraries(tree.body) <= (always | extras if is_lazy else always), name
        assert imported_libraries(list(ast.walk(tree))) <= always | extras, name


def test_a_stale_build_folder_is_ignored_by_git():
    patterns = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/build/" in patterns


def test_no_build_folder_would_ship_deleted_modules():
    """setuptools copies all of build/lib into the next wheel."""
    stale = ROOT / "build" / "lib"
    tree = shipped_files()
    deleted = [path for path in stale.rglob("*.py") if str(path.relative_to(stale)) not in tree]
    assert not deleted, f"remove the folder build/: it would ship {deleted}"
