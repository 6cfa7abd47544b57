"""What the benchmarks of training share: the recipe for fights, where its data lie, the machine."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "fight_surveillance"
VARIABLE = "VIDEO_TRIGGER_DATA"


def find_data(parser: argparse.ArgumentParser) -> Path:
    """The folder of videos and weights that the recipe names by `VARIABLE`, which is set to it.

    Without it, that beside the checkout. Ends the program where the data are in neither.
    """
    folder = Path(os.environ.get(VARIABLE) or ROOT.parent / "shared").resolve()
    if not (folder / "data" / "fight_streams").is_dir():
        parser.error(
            f"{folder} has no data/fight_streams; set {VARIABLE} to the folder that holds data/ "
            "and weights/"
        )
    os.environ[VARIABLE] = str(folder)
    return folder


def overrides(changes: Mapping[str, Any]) -> list[str]:
    """``section.key=value`` of each, as ``--set`` and `load_config` take them."""
    return [f"{key}={_as_yaml(value)}" for key, value in changes.items()]


def _as_yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def machine() -> str:
    """Processor and number of cores, as the system calls them."""
    name = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text(encoding="utf-8").splitlines() if cpus.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else name}, {os.cpu_count()} cores, {platform.system()}"
