"""Runs every benchmark of this folder, one after the other, and writes ``results.md``.

``python benchmarks`` from the checkout, or ``make bench``. A benchmark is a program here that ends
its output with one line: ``RESULT`` and a JSON object of its figures. What it prints is passed on.
Figures of a benchmark that fails, or is not asked for, stay as the last run left them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
HEAD = """# Results of the benchmarks

Written by `make bench`, which runs every program of this folder; `python benchmarks NAME` runs one
anew.
What each measures, and against what, stands at the top of its file.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; returns 1 where a benchmark failed."""
    known = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
    parser = argparse.ArgumentParser(
        prog="benchmarks", description="Run the benchmarks and write their figures down."
    )
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help=f"of {', '.join(known)} (default: all)"
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        default=FOLDER / "results.md",
        help="the tables (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    for name in arguments.names:
        if name not in known:
            parser.error(f"unknown benchmark '{name}'; known: {', '.join(known)}")
    sections = earlier_sections(arguments.output)
    failed = []
    for name in arguments.names or known:
        print(f"== {name}", flush=True)
        conditions = f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, {load()}"
        figures = run(FOLDER / f"{name}.py")
        if figures is None:
            failed.append(name)
            continue
        sections[name] = section(name, conditions, figures)
        # At once: the next one may take an hour, and be interrupted.
        write(arguments.output, [sections[key] for key in known if key in sections])
    if failed:
        print(f"error: {', '.join(failed)} failed; see above", file=sys.stderr)
        return 1
    print(f"results: {arguments.output}")
    return 0


def run(path: Path) -> dict[str, Any] | None:
    """The figures of one benchmark; None where it fails or prints none."""
    last = ""
    with subprocess.Popen(  # noqa: S603 (a program of our own)
        [sys.executable, str(path)], stdout=subprocess.PIPE, text=True, cwd=FOLDER.parent
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line if line.strip() else last
    if process.returncode:
        print(f"error: {path.name} ended with exit code {process.returncode}", file=sys.stderr)
        return None
    word, _, text = last.partition(" ")
    if word != "RESULT":
        print(f"error: {path.name} printed no RESULT line at its end", file=sys.stderr)
        return None
    figures: dict[str, Any] = json.loads(text)
    return figures


def machine() -> str:
    """Processor, cores and system, as the system calls them."""
    name = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        lines = cpus.read_text(encoding="utf-8").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = models[0] if models else name
    return (
        f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    )


def load() -> str:
    """How busy the machine is before it starts: figures of a busy one are worth little."""
    return f"load {os.getloadavg()[0]:.1f} at the start"


def section(name: str, conditions: str, figures: Mapping[str, Any]) -> str:
    """One benchmark's part of the page: numbers in a list, nested figures as tables."""
    lines = [f"## {name}", "", f"{conditions}. `python benchmarks/{name}.py`", ""]
    plain = {key: value for key, value in figures.items() if not isinstance(value, Mapping)}
    plain.pop("machine", None)
    lines += [f"- {words(key)}: {value}" for key, value in plain.items()]
    for key, value in figures.items():
        if isinstance(value, Mapping):
            lines += ["", f"### {words(key)}", "", *table(value)]
    return "\n".join(lines).rstrip() + "\n"


def table(figures: Mapping[str, Any]) -> list[str]:
    """A row for each entry; a column for each figure that any of them has."""
    if not any(isinstance(value, Mapping) for value in figures.values()):
        rows = [[words(key), str(value)] for key, value in figures.items()]
        return _lines(["", "figure"], rows)
    columns: dict[str, None] = {}
    for value in figures.values():
        columns.update(dict.fromkeys(value if isinstance(value, Mapping) else {"": None}))
    rows = [
        [words(name)]
        + [
            str((value if isinstance(value, Mapping) else {"": value}).get(column, ""))
            for column in columns
        ]
        for name, value in figures.items()
    ]
    return _lines(["", *(words(column) for column in columns)], rows)


def _lines(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in headings[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows)]


def words(key: str) -> str:
    """A key as a person would write it."""
    return key.replace("_", " ")


def earlier_sections(output: Path) -> dict[str, str]:
    """What an earlier run wrote, by benchmark."""
    if not output.exists():
        return {}
    _, *parts = output.read_text(encoding="utf-8").split("\n## ")
    return {part.partition("\n")[0]: f"## {part.rstrip()}\n" for part in parts}


def write(output: Path, sections: Sequence[str]) -> None:
    """Aside, then renamed: an interrupted run leaves the earlier page whole."""
    aside = output.with_name(f".{output.name}.{os.getpid()}")
    aside.write_text("\n".join([HEAD, *sections]), encoding="utf-8")
    os.replace(aside, output)


if __name__ == "__main__":
    sys.exit(main())
