"""`draw_curves`: the loss and the metrics of several runs over their updates, as one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from utils.atomic_file import replacing
from utils.errors import UsageError
from utils.training.run_comparison import Run, curve, run_names

MAX_METRICS = 11
"""That one picture shows, beside the loss; the first ones, of which the others are details."""

_NUM_COLUMNS = 2
_PANEL_INCHES = (5.5, 2.6)
_LEGEND_LINE_INCHES = 0.25
_DOTS_PER_INCH = 110
_LINES = ("-", "--", ":", "-.")
_NUM_COLORS = 10


def draw_curves(runs: Sequence[Run], path: Path) -> None:
    """Draw one panel for the loss and one for each metric.

    Args:
        runs: Of which at least one has lines in its ``metrics.jsonl``.
        path: The PNG to write.

    Raises:
        UsageError: No run has a curve, or the file cannot be written.
    """
    named = [(name, run) for name, run in zip(run_names(runs), runs, strict=True) if run.rows]
    if not named:
        raise UsageError(
            f"{path}: no curves to draw: of these runs none has finished an epoch, or all are "
            "checkpoints; name folders in training.log_dir"
        )
    # Not pyplot: that keeps every figure, and may want a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = dict.fromkeys(name for _, run in named for row in run.rows for name in row["metrics"])
    metrics = ["loss", *list(found)[:MAX_METRICS]]
    num_rows = math.ceil(len(metrics) / _NUM_COLUMNS)
    top = 0.2 + _LEGEND_LINE_INCHES * len(named)
    height = _PANEL_INCHES[1] * num_rows + top
    figure = Figure(
        figsize=(_PANEL_INCHES[0] * _NUM_COLUMNS, height), dpi=_DOTS_PER_INCH, layout="constrained"
    )
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(num_rows, _NUM_COLUMNS, sharex=True, squeeze=False).flatten()
    for axes, metric in zip(panels, metrics, strict=False):
        for index, (_, run) in enumerate(named):
            points = curve(run, metric)
            axes.plot(
                [step for step, _, _ in points],
                [value for _, _, value in points],
                color=f"C{index % _NUM_COLORS}",
                linestyle=_LINES[index // _NUM_COLORS % len(_LINES)],
                marker=".",
            )
        axes.set_title(metric, fontsize=10, loc="left", parse_math=False)
        axes.set_xlabel("updates", fontsize=9)
        axes.grid(linewidth=0.4, alpha=0.6)
        axes.tick_params(labelsize=8, labelbottom=True)
    for axes in panels[len(metrics) :]:
        axes.set_axis_off()
    legend = figure.legend(
        panels[0].get_lines(),
        [name for name, _ in named],
        loc="outside upper left",
        frameon=False,
        fontsize=10,
    )
    for text in legend.get_texts():
        # A dollar sign in a name would begin a formula.
        text.set_parse_math(False)
    try:
        with replacing(path) as file:
            canvas.print_png(file)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be written: {error.strerror or error}; choose another file"
        ) from error
