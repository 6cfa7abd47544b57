"""The picture of several runs: one panel for each metric, one colour for each run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from utils.errors import UsageError
from utils.training.run_comparison import Run
from utils.training.run_curves import MAX_METRICS, draw_curves

COLOURS = {"blue": (31, 119, 180), "orange": (255, 127, 14), "green": (44, 160, 44)}


def make_run(
    name: str, *values: float, metrics: tuple[str, ...] = ("frame_ap",), has_rows: bool = True
) -> Run:
    rows = [
        {
            "epoch": epoch,
            "global_step": 10 * epoch,
            "loss": 1 - value,
            "metrics": dict.fromkeys(metrics, value),
        }
        for epoch, value in enumerate(values, start=1)
    ]
    return Run(
        source=Path(name),
        config={},
        code={},
        versions={},
        data={},
        machine={},
        state="done",
        global_step=10,
        epochs=1,
        rows=rows if has_rows else (),
    )


def drawn(runs: list[Run], path: Path) -> NDArray[np.uint8]:
    draw_curves(runs, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def has(picture: NDArray[np.uint8], colour: str) -> NDArray[np.bool_]:
    return (picture == np.array(COLOURS[colour])).all(axis=-1)


def test_each_run_has_a_colour_in_each_panel(tmp_path: Path) -> None:
    runs = [make_run("a", 0.1, 0.2, 0.3), make_run("b", 0.2, 0.5, 0.7)]
    picture = drawn(runs, tmp_path / "new" / "curves.png")
    half = picture.shape[1] // 2
    for colour in ("blue", "orange"):
        # The legend stands on the left, above the panels.
        assert has(picture[100:, :half], colour).any()
        assert has(picture[100:, half:], colour).any()
    assert not has(picture, "green").any()


def test_a_better_run_is_drawn_higher(tmp_path: Path) -> None:
    runs = [make_run("a", 0.1, 0.1), make_run("b", 0.9, 0.9)]
    picture = drawn(runs, tmp_path / "curves.png")
    half = picture.shape[1] // 2
    rows = [np.nonzero(has(picture[:, half:], colour))[0].mean() for colour in ("blue", "orange")]
    assert rows[1] < rows[0] - 50


def test_a_run_without_curves_leaves_the_others_theirs(tmp_path: Path) -> None:
    runs = [make_run("best.pt", 0.5, has_rows=False), make_run("b", 0.9, 0.8)]
    picture = drawn(runs, tmp_path / "curves.png")
    assert has(picture, "blue").any()
    assert not has(picture, "orange").any()


def test_many_metrics_and_runs(tmp_path: Path) -> None:
    metrics = tuple(f"frame_ap/{k}" for k in range(30))
    few = drawn([make_run("a", 0.5, metrics=metrics[:MAX_METRICS])], tmp_path / "few.png")
    many = drawn([make_run("a", 0.5, metrics=metrics)], tmp_path / "many.png")
    assert few.shape == many.shape
    runs = [make_run(f"run {k}", k / 30, 0.5) for k in range(25)]
    assert len(drawn(runs, tmp_path / "runs.png")) > len(drawn(runs[:2], tmp_path / "two.png"))


@pytest.mark.parametrize("name", ["_hidden", "$x^", "a$b$c"])
def test_any_name_can_be_drawn(tmp_path: Path, name: str) -> None:
    """Warnings are errors here, and a lone dollar sign would begin a formula."""
    runs = [make_run(name, 0.5, 0.6, metrics=(f"frame_ap/{name}",))]
    assert has(drawn(runs, tmp_path / "curves.png"), "blue").any()


def test_nothing_to_draw(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    with pytest.raises(UsageError) as caught:
        draw_curves([make_run("a", has_rows=False)], path)
    assert str(caught.value) == (
        f"{path}: no curves to draw: of these runs none has finished an epoch, or all are "
        "checkpoints; name folders in training.log_dir"
    )
    assert not path.exists()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    path.mkdir()
    with pytest.raises(UsageError, match=r"curves\.png: cannot be written: it is a folder; choose"):
        draw_curves([make_run("a", 0.5)], path)
