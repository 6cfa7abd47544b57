"""``train.py``, which tells in a file how many updates it has made: `resume` kills it by that.

``python benchmarks/_counted_training.py FILE ARGUMENTS OF TRAIN.PY``. What a run writes by itself
is for people, and comes a moment later.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

RECORD = struct.Struct("<qd")
"""Updates done, and seconds that the last one took."""


def main(path: str, arguments: list[str]) -> int:
    """Train; returns the exit code."""
    import train
    from utils import cli
    from utils.training.updates import UpdateStep

    # Emptied: what an earlier start did is not done by this one.
    counter = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
    UpdateStep.run = counted(UpdateStep.run, counter)  # type: ignore[method-assign]
    return cli.run(train.main, train.build_parser(), arguments)


def counted(run: Callable[..., Any], counter: int) -> Callable[..., Any]:
    """`UpdateStep.run`, which writes a record to the open file ``counter`` when it is done."""

    def wrapped(*arguments: Any, step: int, **settings: Any) -> Any:
        began = time.perf_counter()
        report = run(*arguments, step=step, **settings)
        os.pwrite(counter, RECORD.pack(step, time.perf_counter() - began), 0)
        return report

    return wrapped


def read_record(path: Path) -> tuple[int, float] | None:
    """Updates done, and seconds of the last one; None before the first."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return RECORD.unpack(data) if data else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
