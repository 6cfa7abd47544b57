"""What must agree: dependencies, configs and their comments, and what tracked files may not say."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from utils.config import Config, load_config

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
TEXT_SUFFIXES = {
    ".py", ".toml", ".txt", ".md", ".yaml", ".yml", ".json", ".cfg", ".ini", ".sh", ".html",
}  # fmt: skip
FOREIGN = re.compile(
    r"""
    (?<![\w.])/(work|home|root|Users|mnt|data1|tmp/[a-z])/\w  # a path of one machine
    | \b(index-url|extra-index-url|find-links|trusted-host)\b  # where packages come from
    | \b(artifactory|nexus|pypi\.org|pythonhosted|devpi)\b
    """,
    re.VERBOSE,
)


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def requirement_lines(path: Path) -> list[str]:
    lines = (line.split(" #")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def leaves(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every key that is no section, by its dotted name."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            found.update(leaves(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


# Dependencies


def test_both_lists_of_dependencies_are_the_same() -> None:
    assert requirement_lines(ROOT / "requirements.txt") == project()["dependencies"]


def test_dependencies_are_sorted_and_have_a_lowest_version() -> None:
    dependencies = project()["dependencies"]
    assert dependencies == sorted(dependencies)
    assert not [line for line in dependencies if not re.match(r"[\w-]+(\[[\w,]+\])?>=\d", line)]


def test_every_package_that_is_imported_at_the_top_is_a_dependency() -> None:
    """Of what is ours, only optional parts may need more, and they import it where it is used."""
    # The last two come with what they are named for.
    modules = {
        "PIL": "pillow",
        "yaml": "pyyaml",
        "pydantic_core": "pydantic",
        "huggingface_hub": "timm",
    }
    known = {re.split(r"[\[>=;]", line)[0].lower() for line in project()["dependencies"]}
    ours = {"models", "pipeline", "service", "utils"}
    wrong = []
    for folder in sorted(ours):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                for name in names:
                    top = name.partition(".")[0]
                    if top in sys.stdlib_module_names | ours:
                        continue
                    if modules.get(top, top).lower() not in known:
                        wrong.append(f"{path.relative_to(ROOT)}: {top}")
    assert not wrong


# Configs


def test_the_main_config_is_the_defaults() -> None:
    assert load_config(ROOT / "configs" / "config.yaml") == Config()


def test_the_main_config_names_every_key() -> None:
    content = yaml.safe_load((ROOT / "configs" / "config.yaml").read_text())
    assert leaves(content).keys() == leaves(Config().to_plain()).keys()


def test_the_main_config_explains_every_key() -> None:
    bare = [
        line.strip()
        for line in (ROOT / "configs" / "config.yaml").read_text().splitlines()
        if re.match(r"\s*\w+: *[^\s#]", line) and " # " not in line
    ]
    assert not bare


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEO_TRIGGER_DATA", "/videos")
    config = load_config(path.stem)
    assert Config.model_validate(config.to_plain()) == config


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if path.stem != "config"], ids=lambda path: path.stem
)
def test_the_other_configs_give_only_what_differs(path: Path) -> None:
    defaults = leaves(Config().to_plain())
    content = leaves(yaml.safe_load(path.read_text()))
    assert content
    same = [key for key, value in content.items() if key in defaults and defaults[key] == value]
    assert not same


# Tracked files


def tracked_files() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this copy of the project is no git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize(
    ("line", "is_foreign"),
    [
        ("see /home/anna/videos/a.mp4", True),
        ("path=/root/data", True),
        ("pip install --index-url X", True),
        ("https://pypi.org/simple", True),
        ("/videos/a.mp4 and ../home/b", False),
        ("a workflow/home/page", False),
        ("VIDEO_TRIGGER_DATA=../shared", False),
    ],
)
def test_what_counts_as_foreign(line: str, is_foreign: bool) -> None:
    assert bool(FOREIGN.search(line)) == is_foreign


def test_no_file_names_one_machine_or_package_index() -> None:
    wrong = []
    for path in tracked_files():
        if (path.suffix not in TEXT_SUFFIXES and path.suffix) or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if FOREIGN.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not wrong


def test_no_tracked_file_is_large() -> None:
    large = [path for path in tracked_files() if path.stat().st_size > 1_000_000]
    assert not [str(path.relative_to(ROOT)) for path in large]


def test_no_file_is_left_unfinished() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX)\b|NotImplementedError")
    wrong = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_files()
        if path.suffix == ".py" and path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if marks.search(line)
    ]
    assert not wrong


def test_test_folders_are_no_packages() -> None:
    """With ``--import-mode=importlib`` a test file may have the name of another."""
    assert not list((ROOT / "tests").rglob("__init__.py"))
