"""What a run ran in: versions, device, memory, and the revision of the code."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from utils.training import environment
from utils.training.environment import (
    PACKAGES,
    code_revision,
    device_name,
    package_versions,
    peak_memory_bytes,
)

CPU = torch.device("cpu")
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", (*PACKAGES, "no-such-package"))
    versions = package_versions()
    assert versions["python"] == platform.python_version()
    assert versions["numpy"] == np.__version__
    assert versions["av"] == av.__version__
    assert versions["torch"] == torch.__version__
    assert versions["no-such-package"] is None


def test_device_name() -> None:
    name = device_name(CPU)
    assert name.startswith("cpu (")
    assert name.endswith(f", {os.cpu_count()} cores)")


def test_peak_memory_counts_bytes_and_never_falls() -> None:
    before = peak_memory_bytes(CPU)
    assert before is not None
    # Python with torch is far above 50 MB, and kibibytes taken for bytes far below.
    assert 50e6 < before < 1e12
    block = np.ones(3_000_000)
    after = peak_memory_bytes(CPU)
    assert after is not None
    assert after >= max(before, block.nbytes)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    device = torch.device("cuda", 0)
    assert device_name(device) == f"cuda:0 ({torch.cuda.get_device_name(0)})"
    block = torch.ones(10_000_000, device=device)
    peak = peak_memory_bytes(device)
    assert peak is not None
    assert peak >= block.nbytes


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *settings, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "train.py").write_text("print(1)\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


@needs_git
class TestCodeRevision:
    def test_clean(self, checkout: Path) -> None:
        revision = git(checkout, "rev-parse", "HEAD")
        assert len(revision) == 40
        assert code_revision(checkout) == {
            "revision": revision,
            "is_dirty": False,
            "diff_hash": None,
        }

    def test_a_change_is_dirty_and_the_same_change_has_the_same_hash(self, checkout: Path) -> None:
        hashes = []
        for text in ("print(2)\n", "print(3)\n", "print(2)\n"):
            (checkout / "train.py").write_text(text)
            found = code_revision(checkout)
            assert found is not None
            assert found["is_dirty"] is True
            hashes.append(found["diff_hash"])
        assert hashes[0] == hashes[2] != hashes[1]
        # Staged or not, it is the same code.
        git(checkout, "add", ".")
        assert code_revision(checkout) == found

    def test_files_that_git_does_not_know_are_no_change(self, checkout: Path) -> None:
        (checkout / "notes.txt").write_text("x")
        found = code_revision(checkout)
        assert found is not None
        assert found["is_dirty"] is False

    def test_where_there_is_no_checkout(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        assert code_revision(tmp_path) is None
        assert "not a git repository" in caplog.text

    def test_inside_a_checkout_of_something_else(self, checkout: Path) -> None:
        inside = checkout / "env" / "site-packages"
        inside.mkdir(parents=True)
        (inside / "train.py").write_text("print(1)\n")
        assert code_revision(inside) is None

    def test_before_the_first_commit(self, tmp_path: Path) -> None:
        git(tmp_path, "init", "-q")
        (tmp_path / "train.py").write_text("print(1)\n")
        git(tmp_path, "add", ".")
        assert code_revision(tmp_path) is None

    def test_another_repository_in_the_environment(
        self, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tmp_path / "other"
        other.mkdir()
        git(other, "init", "-q")
        expected = code_revision(checkout)
        monkeypatch.setenv("GIT_DIR", str(other / ".git"))
        assert expected is not None
        assert code_revision(checkout) == expected


def test_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_revision() is None


def test_a_git_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program = tmp_path / "git"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(environment, "_GIT_SECONDS", 0.2)
    assert code_revision() is None
    assert "git cannot be asked for the revision of the code: " in caplog.text
    assert "timed out" in caplog.text
