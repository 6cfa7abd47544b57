"""Write one HTML page that shows what is annotated: strips of frames around events and background.

A wrong label, a start that is half a second late, an event that nobody marked: seen at a glance.
The page holds everything, runs nothing, and can be sent as it is.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli
from utils.data.formats import FORMATS
from utils.errors import UsageError, VideoError

if TYPE_CHECKING:
    from utils.data.event_strips import Strip
    from utils.data.strip_page import ShownStrip

logger = logging.getLogger("show_dataset")

MAX_SPOOL_BYTES = 256 * 1024**2
"""Of pictures that wait in memory for their place on the page; more of them wait on disk."""


def build_parser() -> argparse.ArgumentParser:
    """What the command understands."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--annotations", metavar="PATH", type=Path, required=True, help="what to show"
    )
    parser.add_argument(
        "--output", metavar="FILE", type=Path, required=True, help="the page, such as page.html"
    )
    parser.add_argument(
        "--from",
        metavar="FORMAT",
        dest="source",
        default="native",
        help=f"of --annotations: {', '.join(FORMATS)} (default: %(default)s)",
    )
    parser.add_argument(
        "--video-dir",
        metavar="DIR",
        type=Path,
        help="folder that video names are relative to (default: that of --annotations)",
    )
    parser.add_argument(
        "--fps",
        metavar="N",
        type=float,
        help="frames a second, where the format counts frames and does not say it",
    )
    parser.add_argument(
        "--per-class",
        metavar="N",
        type=int,
        default=8,
        help="at most so many strips of each class, and of background (default: %(default)s)",
    )
    parser.add_argument(
        "--labels", metavar="NAME", nargs="+", help="only these classes (default: all)"
    )
    parser.add_argument(
        "--height",
        metavar="N",
        type=int,
        default=120,
        help="of the pictures, in pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="another seed, other events (default: 0)"
    )
    cli.add_common_arguments(parser)
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Write the page; returns 1 where a video could not be shown."""
    from dataclasses import replace

    from tqdm import tqdm

    from utils.atomic_file import check_writable, replacing
    from utils.data.event_strips import choose_strips
    from utils.data.formats import import_annotations
    from utils.data.strip_page import page_parts
    from utils.data.summary import summarize
    from utils.registry import suggestion

    for name in ("per_class", "height"):
        if getattr(arguments, name) < 1:
            raise UsageError(
                f"--{name.replace('_', '-')} must be 1 or more, got {getattr(arguments, name)}"
            )
    annotations = import_annotations(
        arguments.annotations,
        arguments.source,
        video_dir=arguments.video_dir,
        fps=arguments.fps,
    )
    check_writable(arguments.output)
    shown = annotations
    if arguments.labels:
        for label in arguments.labels:
            if label not in annotations.labels:
                known = annotations.labels
                raise UsageError(
                    f"--labels: no class '{label}' in {arguments.annotations}; it has "
                    f"{', '.join(known)}{suggestion(label, known)}"
                )
        shown = replace(annotations, labels=tuple(arguments.labels))
    strips = choose_strips(shown, arguments.per_class, seed=arguments.seed)
    failed: set[str] = set()
    with (
        replacing(arguments.output) as file,
        tqdm(total=len(strips), desc="reading", unit="strip", disable=None) as bar,
        tempfile.SpooledTemporaryFile(MAX_SPOOL_BYTES) as spool,
    ):

        def read() -> Iterator[ShownStrip]:
            for found in _read_strips(strips, arguments.height, spool, bar.update):
                if found.error is not None:
                    failed.add(found.strip.video.video)
                yield found

        parts = page_parts(
            shown,
            summarize(shown),
            read(),
            title=str(arguments.annotations),
            height=arguments.height,
        )
        for part in parts:
            file.write(part.encode())
    print(f"page: {arguments.output} ({len(strips)} strips)")
    if failed:
        logger.error("error: %d videos could not be shown; the page says why", len(failed))
    return 1 if failed else 0


def _read_strips(
    strips: Sequence[Strip], height: int, spool: IO[bytes], advance: Callable[[], object]
) -> Iterator[ShownStrip]:
    """Strips with their frames, in order.

    Each video is opened once, for all of its strips; those to be shown later wait in ``spool``.
    """
    from dataclasses import replace

    import numpy as np

    by_video: dict[Path, list[int]] = {}
    for index, strip in enumerate(strips):
        by_video.setdefault(strip.video.path, []).append(index)
    found: dict[int, ShownStrip] = {}
    places: dict[int, int] = {}
    nothing = np.empty((0, 0, 3), np.uint8)
    for path, indices in by_video.items():
        read = _read_video(path, [strips[index] for index in indices], height)
        for index, shown in zip(indices, read, strict=True):
            places[index] = spool.tell()
            for frame in shown.frames:
                np.save(spool, frame.image, allow_pickle=False)
            frames = tuple(replace(frame, image=nothing) for frame in shown.frames)
            found[index] = replace(shown, frames=frames)
            advance()
    for index in range(len(strips)):
        spool.seek(places[index])
        frames = tuple(
            replace(frame, image=np.load(spool, allow_pickle=False))
            for frame in found[index].frames
        )
        yield replace(found[index], frames=frames)


def _read_video(path: Path, strips: Sequence[Strip], height: int) -> Iterator[ShownStrip]:
    """The strips of one video; where it is broken, why, so that the others are still shown."""
    from utils.data.event_strips import read_strip
    from utils.data.strip_page import ShownStrip
    from utils.video.source import VideoSource

    try:
        source = VideoSource.open(path, decoder="pyav_isolated")
    except VideoError as error:
        logger.warning("not shown: %s", error)
        for strip in strips:
            yield ShownStrip(strip=strip, frames=(), error=str(error))
        return
    with source:
        for strip in strips:
            try:
                frames = tuple(read_strip(source, strip, short_side=height))
            except VideoError as error:
                logger.warning("not shown: %s", error)
                yield ShownStrip(strip=strip, frames=(), error=str(error))
                continue
            if source.gave_up:
                logger.warning("%s: %s", path, "; ".join(source.loss.notes))
            why = None if frames else "the video has no frame here; is the time past its end?"
            yield ShownStrip(strip=strip, frames=frames, error=why)


def command(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return cli.run(main, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(command())
