"""Tables of names: choices, errors, optional packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.errors import MissingPackageError, UnknownNameError
from utils.registry import Registry, suggestion


@pytest.fixture
def shapes() -> Registry:
    return Registry("shape", {"square": "math:sqrt", "circle": "math:pi"})


def test_it_is_a_sorted_mapping(shapes: Registry) -> None:
    assert list(shapes) == ["circle", "square"]
    assert len(shapes) == 2
    assert shapes["circle"] == "math:pi"
    assert "triangle" not in shapes
    assert dict(shapes) == {"circle": "math:pi", "square": "math:sqrt"}


def test_entries_are_imported_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "registry_test_part.py").write_text("def make():\n    return 'made'\n")
    registry = Registry("part", {"mine": "registry_test_part:make"})
    monkeypatch.syspath_prepend(tmp_path)
    assert registry.resolve("mine")() == "made"


def test_an_unknown_name(shapes: Registry) -> None:
    message = r"^unknown shape 'circel'; known: circle, square \(did you mean 'circle'\?\)$"
    with pytest.raises(UnknownNameError, match=message):
        shapes.resolve("circel")
    with pytest.raises(UnknownNameError, match=r"^unknown shape 'zzz'; known: circle, square$"):
        shapes.check("zzz")
    shapes.check("circle")


@pytest.mark.parametrize(
    ("name", "near"), [("bec", "bce"), ("BCE", "bce"), ("Focal", "focal"), ("l1", None), ("", None)]
)
def test_suggestions(name: str, near: str | None) -> None:
    expected = "" if near is None else f" (did you mean '{near}'?)"
    assert suggestion(name, ["bce", "focal"]) == expected


def test_a_missing_package_behind_our_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "registry_test_wrapper.py").write_text("import no_such_package_here\n")
    monkeypatch.syspath_prepend(tmp_path)
    entries = {"fast": "registry_test_wrapper:X"}
    message = (
        r"^decoder 'fast' needs the package 'no_such_package_here', which is not installed; "
        r"run: pip install no-such\[all\]$"
    )
    with pytest.raises(MissingPackageError, match=message) as caught:
        Registry("decoder", entries, {"fast": "no-such[all]"}).resolve("fast")
    assert caught.value.exit_code == 1
    with pytest.raises(ModuleNotFoundError, match="no_such_package_here") as bug:
        Registry("decoder", entries).resolve("fast")
    assert not isinstance(bug.value, MissingPackageError)


def test_a_package_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "registry_test_broken.py").write_text(
        "raise ImportError('libx.so: cannot open', name='libx')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("decoder", {"fast": "registry_test_broken:X"}, {"fast": "libx"})
    message = r"'libx', which is installed but cannot be imported \(libx.so: cannot open\)"
    with pytest.raises(MissingPackageError, match=message):
        registry.resolve("fast")


def test_a_bug_in_our_own_module_is_no_missing_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "registry_test_ours"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("import registry_test_ours.gone\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("part", {"mine": "registry_test_ours.part:X"}, {"mine": "something"})
    with pytest.raises(ModuleNotFoundError, match=r"registry_test_ours\.gone") as bug:
        registry.resolve("mine")
    assert not isinstance(bug.value, MissingPackageError)


@pytest.mark.parametrize("target", ["math", ":pi", "math:"])
def test_a_table_must_be_complete(target: str) -> None:
    with pytest.raises(AssertionError, match="is not module:attribute"):
        Registry("shape", {"circle": target})


def test_packages_must_belong_to_entries() -> None:
    with pytest.raises(AssertionError, match="which are no entries"):
        Registry("shape", {"circle": "math:pi"}, {"cricle": "package"})


def test_every_table_of_the_project_points_at_something() -> None:
    import importlib
    import pkgutil

    import models
    import pipeline
    import utils

    found = []
    not_importable = []
    for package in (models, pipeline, utils):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            try:
                content = vars(importlib.import_module(module.name)).values()
            except ModuleNotFoundError:
                not_importable.append(module.name)
                continue
            found += [value for value in content if isinstance(value, Registry)]
    assert len(found) >= 3
    missing = []
    excused = set()
    for registry in found:
        for name in registry:
            try:
                assert registry.resolve(name) is not None
            except MissingPackageError as error:
                missing.append(str(error))
                excused.add(registry[name].partition(":")[0])
    assert set(not_importable) <= excused
    assert all("run: pip install " in message for message in missing), missing
