"""``python benchmarks``: what it runs, and the page that it writes."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "__main__.py"

FAST = """
print("measuring")
print('RESULT {"machine": "m", "seconds": 3, "gop_30": {"ffmpeg": {"of_ffmpeg": 1.0}, '
      '"pyav": {"of_ffmpeg": 0.9, "note": "x"}}, "cache": {"factor": 20}}')
"""

Run = Callable[..., int]


@pytest.fixture
def bench(tmp_path: Path) -> SimpleNamespace:
    """The program's functions, over a folder of benchmarks that the test writes."""
    functions: dict[str, Any] = runpy.run_path(str(PROGRAM))
    functions["main"].__globals__["FOLDER"] = tmp_path
    (tmp_path / "_shared.py").write_text("raise SystemExit('is no benchmark')")
    (tmp_path / "fast.py").write_text(FAST)
    return SimpleNamespace(folder=tmp_path, page=tmp_path / "results.md", **functions)


def test_writes_tables_of_every_benchmark(
    bench: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    (bench.folder / "other.py").write_text("print('RESULT {\"share\": 0.5}')")
    assert bench.main([]) == 0
    page = bench.page.read_text()
    assert page.startswith("# Results of the benchmarks\n")
    assert page.index("## fast") < page.index("## other")
    assert "cores, " in page
    assert "load " in page
    assert "- seconds: 3\n" in page
    assert "- share: 0.5\n" in page
    expected = """### gop 30

|  | of ffmpeg | note |
| --- | ---: | ---: |
| ffmpeg | 1.0 |  |
| pyav | 0.9 | x |

### cache

|  | figure |
| --- | ---: |
| factor | 20 |
"""
    assert expected in page
    assert "== fast\nmeasuring\n" in capsys.readouterr().out
    assert list(bench.folder.glob(".results*")) == []


def test_the_others_keep_their_figures(bench: SimpleNamespace) -> None:
    (bench.folder / "other.py").write_text("print('RESULT {\"share\": 0.5}')")
    assert bench.main([]) == 0
    before = bench.page.read_text()
    (bench.folder / "other.py").write_text("print('RESULT {\"share\": 0.75}')")
    assert bench.main(["other"]) == 0
    after = bench.page.read_text()
    assert after == before.replace("share: 0.5", "share: 0.75")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit(3)", "error: other.py ended with exit code 3"),
        ("print('done')", "error: other.py printed no RESULT line at its end"),
    ],
)
def test_one_that_fails_does_not_stop_the_rest(
    bench: SimpleNamespace, capfd: pytest.CaptureFixture[str], code: str, message: str
) -> None:
    (bench.folder / "other.py").write_text("print('RESULT {\"share\": 0.5}')")
    assert bench.main([]) == 0
    (bench.folder / "other.py").write_text(code)
    (bench.folder / "zebra.py").write_text("print('RESULT {\"stripes\": 7}')")
    assert bench.main([]) == 1
    errors = capfd.readouterr().err
    assert message in errors
    assert errors.endswith("error: other failed; see above\n")
    page = bench.page.read_text()
    assert "share: 0.5" in page, "what an earlier run measured"
    assert "stripes: 7" in page


def test_unknown(bench: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["fats"])
    assert ended.value.code == 2
    assert "unknown benchmark 'fats'; known: fast" in capsys.readouterr().err
