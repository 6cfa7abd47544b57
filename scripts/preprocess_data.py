"""Check annotations of any known format, convert and split them, and decode the videos once.

Everything that is wrong is listed, not only the first. Then the annotations are written in the
project's own format or another, for each split one folder in which no group of another split is,
with a picture of what is in them.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import cli
from utils.data.formats import FORMATS
from utils.errors import AnnotationError, UsageError

if TYPE_CHECKING:
    from utils.data.annotations import AnnotationSet
    from utils.data.formats.draft import Draft, Problem

logger = logging.getLogger("preprocess_data")

_SPLITS = ("train", "val", "test")
_PICTURE = "dataset.png"


def build_parser() -> argparse.ArgumentParser:
    """What the command understands."""
    parser = argparse.ArgumentParser(description=__doc__)
    known = ", ".join(FORMATS)
    parser.add_argument(
        "--input", metavar="PATH", type=Path, required=True, help="annotation file, or folder"
    )
    parser.add_argument(
        "--from",
        metavar="FORMAT",
        dest="source",
        default="native",
        help=f"of --input: {known} (default: %(default)s)",
    )
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder for the result")
    parser.add_argument(
        "--to",
        metavar="FORMAT",
        dest="target",
        default="native",
        help="of the result; training reads native (default: %(default)s)",
    )
    parser.add_argument(
        "--video-dir",
        metavar="DIR",
        type=Path,
        help="folder that video names are relative to (default: that of --input)",
    )
    parser.add_argument(
        "--fps",
        metavar="N",
        type=float,
        help="frames a second, where the format counts frames and does not say it (default: ask "
        "the videos)",
    )
    parser.add_argument(
        "--add-reviewed",
        metavar="DIR",
        type=Path,
        help="a folder of inference.py --review-dir that a person went through: its near misses "
        "come back as missed events or hard negatives",
    )
    parser.add_argument(
        "--verdicts",
        metavar="PATH",
        type=Path,
        help="what an annotation tool exported of that folder (default: its review.json, edited)",
    )
    parser.add_argument(
        "--verdicts-from",
        metavar="FORMAT",
        default="native",
        help=f"of --verdicts: {known} (default: %(default)s)",
    )
    parser.add_argument(
        "--labels",
        metavar="NAME",
        nargs="+",
        help="the classes, in this order; others are errors (default: those of the file)",
    )
    parser.add_argument(
        "--split",
        metavar="FRACTION",
        type=float,
        nargs="+",
        help="shares of train and val, or train, val and test, as in 0.8 0.1 0.1",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="another seed, another split (default: 0)"
    )
    parser.add_argument(
        "--check-files",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="open the videos, too, and compare those of equal size (default: on)",
    )
    parser.add_argument(
        "--check-only", action="store_true", help="list what is wrong and write nothing"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the files of an earlier run"
    )
    parser.add_argument(
        "--build-cache",
        action="store_true",
        help="fill data.cache_dir of --config with the frames, or with training.cache_features the "
        "features, that train.py will want",
    )
    cli.add_config_arguments(parser)
    cli.add_device_argument(parser)
    cli.add_common_arguments(parser)
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Check, split, convert; print what was found."""
    from utils.data.formats import get_format
    from utils.data.formats.base import ImportOptions
    from utils.data.formats.draft import finish

    _check_arguments(arguments)
    get_format(arguments.target)
    options = ImportOptions(
        video_dir=arguments.video_dir,
        fps=arguments.fps,
        look_at_files=arguments.check_files,
    )
    draft = get_format(arguments.source).read(arguments.input, options)
    if arguments.add_reviewed is not None:
        _add_reviewed(draft, arguments)
    problems = _check(draft, arguments)
    for problem in problems:
        print(f"{problem.severity}: {problem}")
    counts = Counter(problem.severity for problem in problems)
    print(
        f"{arguments.input}: {len(draft.videos)} videos, "
        f"{sum(len(video.events) for video in draft.videos)} events, {counts['error']} errors, "
        f"{counts['warning']} warnings"
    )
    if counts["error"]:
        raise AnnotationError(
            f"{arguments.input}: {counts['error']} errors, listed above; nothing was written"
        )
    annotations = finish(draft, labels=arguments.labels)
    splits = _split(annotations, arguments)
    places = {} if arguments.check_only else _places(splits, arguments)
    _print_summary(splits, arguments)
    _write(splits, places, arguments)
    if arguments.build_cache:
        return _build_cache(splits, arguments)
    return 0


def _check_arguments(arguments: argparse.Namespace) -> None:
    if arguments.output is None and not arguments.check_only:
        raise UsageError("--output names the folder for the result; or give --check-only")
    if arguments.fps is not None and not 0 < arguments.fps < float("inf"):
        raise UsageError(f"--fps must be above 0, got {arguments.fps:g}")
    if arguments.split is not None and len(arguments.split) not in (2, 3):
        raise UsageError(
            f"--split takes two or three shares (train, val, test), got {len(arguments.split)}"
        )
    if arguments.verdicts is not None and arguments.add_reviewed is None:
        raise UsageError("--verdicts needs --add-reviewed DIR, the folder that they are about")
    if arguments.check_only and arguments.build_cache:
        raise UsageError("--check-only writes nothing, not even a cache; leave out --build-cache")


def _add_reviewed(draft: Draft, arguments: argparse.Namespace) -> None:
    """Take the verdicts on near misses into ``draft``, with the problems met."""
    from utils.data.formats import get_format
    from utils.data.formats.base import ImportOptions
    from utils.data.formats.label_studio import unannotated_videos
    from utils.data.reviewed import add_reviewed, review_list
    from utils.data.validation import check_events

    folder: Path = arguments.add_reviewed
    path = review_list(folder)
    review = get_format("native").read(path, ImportOptions(look_at_files=False))
    verdicts, unreviewed = review, None
    if arguments.verdicts is not None:
        clip_fps = {video.video: video.fps for video in review.videos if video.fps is not None}
        options = ImportOptions(video_dir=folder, fps=clip_fps, look_at_files=False)
        verdicts = get_format(arguments.verdicts_from).read(arguments.verdicts, options)
        if arguments.verdicts_from == "label_studio":
            unreviewed = unannotated_videos(arguments.verdicts, folder)
        elif arguments.verdicts_from != "native":
            # In the other formats a video that is listed was looked at.
            unreviewed = set()
    labels = arguments.labels or draft.labels
    found = [*verdicts.problems, *check_events(verdicts, labels=labels)]
    # That the near misses are of some classes only is no news.
    draft.problems += [problem for problem in found if problem.kind != "unused-label"]
    if review is not verdicts:
        draft.problems += review.problems
    print(f"{path}: {add_reviewed(draft, folder, review, verdicts, unreviewed=unreviewed)}")


def _check(draft: Draft, arguments: argparse.Namespace) -> list[Problem]:
    """All problems; the files are asked first, for the durations that events are held against."""
    from tqdm import tqdm

    from utils.data.validation import check_events, check_files

    of_files: list[Problem] = []
    if arguments.check_files:
        with tqdm(total=len(draft.videos), desc="checking", unit="video", disable=None) as bar:
            of_files = check_files(draft, on_video=lambda _: bar.update())
    else:
        for video in draft.videos:
            video.fps = video.fps if video.fps is not None else arguments.fps
    return [*draft.problems, *check_events(draft, labels=arguments.labels), *of_files]


def _split(annotations: AnnotationSet, arguments: argparse.Namespace) -> dict[str, AnnotationSet]:
    """By name; the name of a set that is not divided is empty."""
    from utils.data.splitting import split_annotations

    if arguments.split is None:
        return {"": annotations}
    num_alone = sum(video.group is None for video in annotations.videos)
    if num_alone:
        logger.warning(
            "%d of %d videos have no 'group': each may land in any split; where several show the "
            "same camera or person, give them one, or the model is judged too kindly",
            num_alone,
            len(annotations.videos),
        )
    fractions = dict(zip(_SPLITS, arguments.split, strict=False))
    splits = split_annotations(annotations, fractions, seed=arguments.seed)
    for name, split in splits.items():
        there = {event.label for video in split.videos for event in video.events}
        for label in annotations.labels:
            if label not in there:
                logger.warning("split '%s' has no event of class '%s'", name, label)
    return splits


def _print_summary(splits: Mapping[str, AnnotationSet], arguments: argparse.Namespace) -> None:
    from utils.data.summary import draw_summary, summarize, summary_lines

    summaries = {name or "all": summarize(split) for name, split in splits.items()}
    for name, summary in summaries.items():
        print(*summary_lines(name, summary), sep="\n")
    if not arguments.check_only:
        picture = arguments.output / _PICTURE
        draw_summary(picture, summaries, title=str(arguments.input))
        print(f"picture: {picture}")


def _places(splits: Iterable[str], arguments: argparse.Namespace) -> dict[str, Path]:
    """Where each split goes; refuses before anything is written."""
    from utils.data.formats import get_format

    name_in_folder = get_format(arguments.target).default_name
    places: dict[str, Path] = {name: arguments.output / name / name_in_folder for name in splits}
    for place in places.values():
        # A folder of an earlier run may hold files that this one would not write.
        if place.exists() and not (arguments.overwrite and place.is_file()):
            remedy = "remove it first" if place.is_dir() else "add --overwrite"
            raise UsageError(f"{place} exists already; choose another --output, or {remedy}")
    return places


def _write(
    splits: Mapping[str, AnnotationSet],
    places: Mapping[str, Path],
    arguments: argparse.Namespace,
) -> None:
    from utils.data.formats import export_annotations, get_format, relocate

    target = get_format(arguments.target)
    for name, place in places.items():
        split = splits[name]
        base = place if target.is_folder else place.parent
        moved = split if target.is_tree else relocate(split, base)
        losses: list[str] = []
        for loss in export_annotations(moved, place, arguments.target):
            losses.append(f"lost in {place}: {loss}")
        print(f"written: {place}", *losses, sep="\n")


def _build_cache(splits: Mapping[str, AnnotationSet], arguments: argparse.Namespace) -> int:
    """Read every video as training will; returns 1 where one cannot be."""
    from pipeline.training_setup import build_caches
    from utils.config import load_config
    from utils.device import resolve_device

    config = load_config(arguments.config, overrides=arguments.overrides)
    summary = build_caches(config, splits, resolve_device(arguments.device))
    print(
        f"cache: {summary.content} of {summary.num_videos} videos, sampled {summary.num_frames} "
        f"times, in {config.data.cache_dir}"
    )
    return 1 if summary.num_failed else 0


def command(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return cli.run(main, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(command())
