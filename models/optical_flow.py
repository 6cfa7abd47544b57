"""`flow_statistics`: how things move, as a few numbers that no camera's view decides.

Inside `models.visual_encoder`, beside the motion images. Features of a pretrained network say what
a motion image looks like; these say how fast things move, how unevenly, and how abruptly that
changes. Flow is estimated cell by cell as of Lucas and Kanade (IJCAI 1981), with nothing but sums
and products, so that it is exported with the rest.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

_WINDOW = 9
_STRIDE = 5
"""Pixels. A cell is about as large as a limb where a person is a third of the picture's height."""
_NOISE = 1e-4
"""Added to squared gradients: below about a hundredth of the range they are the camera's noise."""
_NUM_DIRECTIONS = 8
_QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99)
NUM_FLOW_STATISTICS = 31
"""Numbers that `flow_statistics` gives."""


class Flow(NamedTuple):
    """Flow of cells.

    Attributes:
        across: ``(N, h, w)`` pixels to the right.
        down: ``(N, h, w)`` pixels.
        change: ``(N, h, w)`` mean squared change of grey over time.
        unexplained: ``(N, h, w)`` what of it the flow leaves over: light, occlusion, tumult.
    """

    across: Tensor
    down: Tensor
    change: Tensor
    unexplained: Tensor

    @property
    def speed(self) -> Tensor:
        """``(N, h, w)`` pixels."""
        return _length(self.across, self.down)


def optical_flow(picture: Tensor, later: Tensor) -> Flow:
    """Flow from ``picture`` to ``later``, as far as a first order tells.

    Motion of more than about half a cell is underestimated; what is left of it is in
    ``unexplained``.

    Args:
        picture: ``(N, H, W)`` grey in [0, 1], at least 9 x 9.
        later: Likewise.
    """
    middle = (picture + later) / 2
    to_right = functional.pad(middle[:, :, 2:] - middle[:, :, :-2], (1, 1)) / 2
    to_bottom = functional.pad(middle[:, 2:] - middle[:, :-2], (0, 0, 1, 1)) / 2
    change = later - picture
    products = torch.stack(
        (
            to_right * to_right,
            to_bottom * to_bottom,
            to_right * to_bottom,
            to_right * change,
            to_bottom * change,
            change * change,
        ),
        dim=1,
    )
    xx, yy, xy, xt, yt, tt = functional.avg_pool2d(products, _WINDOW, _STRIDE).unbind(1)
    xx, yy = xx + _NOISE, yy + _NOISE
    # Above 0: both squares have the noise added, and (Cauchy and Schwarz) xy² is at most xx yy.
    determinant = xx * yy - xy * xy
    across = (xy * yt - yy * xt) / determinant
    down = (xy * xt - xx * yt) / determinant
    unexplained = (tt + across * xt + down * yt).clamp(min=0)
    return Flow(across, down, tt, unexplained)


def flow_statistics(grey: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Statistics of the flow around one moment.

    Turning the picture over changes none of them, and moving everything in it changes them little.

    Args:
        grey: ``(N, H, W)`` in [0, 1], at least 19 x 19.
        before: The picture shortly before.
        after: The picture shortly after.

    Returns:
        ``(N, 31)``, none negative. Of the flow from before to after: five quantiles of speed, its
        mean and deviation; mean and 95 % quantile of what the flow leaves over; change; the share
        left over; length of the mean flow; mean and 95 % quantile of the difference to the
        neighbourhood; divergence and curl; eight directions, by strength; how evenly these are
        spread. Of the flow after the moment less that before it: six likewise. Square roots are
        taken, since most crowd near 0.
    """
    flow = optical_flow(before, after)
    speed = flow.speed
    across, down = flow.across, flow.down
    uneven = _length(across - _smoothed(across), down - _smoothed(down))
    expansion = _right(across) + _down(down)
    curl = _right(down) - _down(across)
    directions = _directions(across, down)
    shares = directions / (directions.sum(1, keepdim=True) + 1e-4)
    evenness = -(shares * (shares + 1e-6).log()).sum(1)
    first, second = optical_flow(before, grey), optical_flow(grey, after)
    jerk = _length(second.across - first.across, second.down - first.down)
    statistics = (
        *_quantiles(speed, _QUANTILES),
        speed.mean((1, 2)),
        speed.flatten(1).std(1, correction=0),
        flow.unexplained.sqrt().mean((1, 2)),
        *_quantiles(flow.unexplained.sqrt(), (0.95,)),
        flow.change.sqrt().mean((1, 2)),
        flow.unexplained.sum((1, 2)) / (flow.change.sum((1, 2)) + 1e-6),
        _length(across.mean((1, 2)), down.mean((1, 2))),
        uneven.mean((1, 2)),
        *_quantiles(uneven, (0.95,)),
        expansion.abs().mean((1, 2)),
        curl.abs().mean((1, 2)),
        *directions.sort(1).values.unbind(1),
        evenness,
        jerk.mean((1, 2)),
        *_quantiles(jerk, _QUANTILES),
    )
    return torch.stack(statistics, dim=1).clamp(min=0).sqrt()


def _length(across: Tensor, down: Tensor) -> Tensor:
    return (across * across + down * down).sqrt()


def _smoothed(values: Tensor) -> Tensor:
    """Means over 3 x 3 cells, at the border of those that there are."""
    return functional.avg_pool2d(values[:, None], 3, 1, 1, count_include_pad=False)[:, 0]


def _right(values: Tensor) -> Tensor:
    """Differences of the cells to the right and to the left, inner cells alone."""
    return values[:, 1:-1, 2:] - values[:, 1:-1, :-2]


def _down(values: Tensor) -> Tensor:
    """Differences of the cells below and above, inner cells alone."""
    return values[:, 2:, 1:-1] - values[:, :-2, 1:-1]


def _directions(across: Tensor, down: Tensor) -> Tensor:
    """``(N, 8)``: how much moves in each of eight directions, a turn apart."""
    return torch.stack(
        [
            (across * math.cos(angle) + down * math.sin(angle)).clamp(min=0).mean((1, 2))
            for angle in (number * math.tau / _NUM_DIRECTIONS for number in range(_NUM_DIRECTIONS))
        ],
        dim=1,
    )


def _quantiles(values: Tensor, shares: tuple[float, ...]) -> tuple[Tensor, ...]:
    """``(N, h, w)`` to one ``(N,)`` for each share: the cell that so many are not above."""
    ordered = values.flatten(1).sort(1).values
    length = ordered.shape[1]
    return tuple(ordered[:, int(share * (length - 1))] for share in shares)
