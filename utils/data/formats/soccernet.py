"""SoccerNet labels, version 2: a ``Labels-v2.json`` in each game's folder, points in milliseconds.

The halves of a game are videos of their own, ``1_224p.mkv`` and ``2_224p.mkv`` beside the labels.
``gameTime`` names the half and the time to the second, ``position`` the milliseconds within the
half. Both halves are one group: the same cameras and players.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from utils.atomic_file import write_json
from utils.data.annotations import AnnotatedEvent, AnnotationSet
from utils.data.formats.base import AnnotationFormat, ImportOptions, find_video
from utils.data.formats.draft import Draft, DraftEvent, DraftVideo
from utils.data.strict_json import read_json
from utils.errors import AnnotationError

LABELS_NAME = "Labels-v2.json"
_HALF_NAMES = ("{half}_224p.mkv", "{half}_720p", "{half}_224p", "{half}_HQ", "{half}")
"""Of the videos, in the order in which they are looked for; the first where none is there."""
_GAME_TIME = re.compile(r"(\d+) - (\d+):(\d\d)")
_HALF_OF_NAME = re.compile(r"([12])(_\w+)?\.\w+")
_KEPT = ("team", "visibility")
_EVENT_FIELDS = {"gameTime", "label", "position"}
_TOLERANCE_SECONDS = 1.0
"""How far ``gameTime`` may be from ``position``: it is given to the second."""


class SoccerNet(AnnotationFormat):
    """One file, or a folder with a file for each game anywhere below it."""

    title = "SoccerNet"
    default_name = "soccernet"
    is_folder = True
    is_tree = True
    states_fps = False

    def read(self, path: Path, options: ImportOptions) -> Draft:
        """As the base class says."""
        if path.is_dir():
            files, root = sorted(path.rglob(LABELS_NAME)), path
            if not files:
                raise AnnotationError(f"{path}: there is no {LABELS_NAME} in or below this folder")
        else:
            files, root = [path], path.parent
        draft = Draft(path=path)
        for file in files:
            self._read_game(draft, file, root, options)
        return draft

    def _read_game(self, draft: Draft, file: Path, root: Path, options: ImportOptions) -> None:
        content = read_json(file)
        if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
            raise AnnotationError(
                f"{file}: has no list 'annotations', which SoccerNet's labels are made of; is it "
                "another format?"
            )
        # The place of the file, not UrlLocal: people move games, and the videos move with them.
        game = file.parent.relative_to(root).as_posix()
        where = f"game '{game}'"
        folder = options.video_dir or root
        events: dict[int, list[DraftEvent]] = {}
        for index, entry in draft.items(where, "annotations", content["annotations"]):
            read = _read_event(draft, f"{where}, event {index}", index, entry)
            if read is not None:
                half, event = read
                events.setdefault(half, []).append(event)
        for half in sorted({1, 2} | events.keys()):
            names = [f"{game}/{name.format(half=half)}" for name in _HALF_NAMES]
            # Of a file at the top, "./1_224p.mkv" is 1_224p.mkv.
            name = PurePosixPath(find_video(folder, names)).as_posix()
            if half in events or (folder / name).is_file():
                draft.videos.append(
                    DraftVideo(
                        video=name,
                        path=folder / name,
                        fps=options.fps_of(name),
                        group=file.resolve().parent.name if game == "." else game,
                        events=events.get(half, []),
                    )
                )

    def write(self, annotations: AnnotationSet, path: Path) -> Mapping[str, str]:
        """As the base class says."""
        games: dict[str, list[tuple[int, AnnotatedEvent]]] = {}
        taken: set[tuple[str, int]] = set()
        renamed: dict[str, str] = {}
        for video in annotations.videos:
            name = PurePosixPath(video.video)
            match = _HALF_OF_NAME.fullmatch(name.name)
            # A path to elsewhere cannot be the place of a game within the folder.
            is_inside = not name.is_absolute() and ".." not in name.parts
            if match and is_inside:
                game, half = name.parent.as_posix(), int(match[1])
            else:
                game, half = name.with_suffix("").name, 1
            while (game, half) in taken:
                game += "_"
            taken.add((game, half))
            new = PurePosixPath(game, _HALF_NAMES[0].format(half=half)).as_posix()
            if new != video.video:
                renamed[video.video] = new
            games.setdefault(game, []).extend((half, event) for event in video.events)
        for game, events in games.items():
            content = {
                "UrlLocal": f"{game}/",
                "UrlYoutube": "",
                "annotations": [_event_to_plain(half, event) for half, event in events],
            }
            write_json(content, path / game / LABELS_NAME)
        return renamed


def _read_event(
    draft: Draft, where: str, index: int, entry: dict[str, Any]
) -> tuple[int, DraftEvent] | None:
    label = draft.required_text(where, "label", entry.get("label"))
    game_time = draft.required_text(where, "gameTime", entry.get("gameTime"))
    if label is None or game_time is None:
        return None
    where = f"{where} ('{label}')"
    match = _GAME_TIME.fullmatch(game_time.strip())
    if match is None:
        draft.error("field", where, f"'gameTime' must look like '1 - 00:12', got '{game_time:.40}'")
        return None
    half, clock = int(match[1]), 60 * int(match[2]) + int(match[3])
    position = entry.get("position")
    time: float | None = float(clock)
    if position is not None:
        # A string in the original files.
        is_text = isinstance(position, str) and position.strip().isdecimal()
        value = draft.number(
            where, "position", int(position) if is_text else position, what="milliseconds"
        )
        time = None if value is None else value / 1000
    if time is None:
        return None
    if abs(time - clock) > _TOLERANCE_SECONDS:
        draft.warning(
            "clock",
            where,
            f"'position' says {time:g} s, 'gameTime' {clock} s; the position is used",
        )
    return half, DraftEvent(
        label=label,
        start=time,
        end=time,
        is_point=True,
        place=f"event {index}",
        extra={key: value for key, value in entry.items() if key not in _EVENT_FIELDS},
    )


def _event_to_plain(half: int, event: AnnotatedEvent) -> dict[str, Any]:
    milliseconds = round(event.start * 1000)
    minutes, seconds = divmod(milliseconds // 1000, 60)
    return {
        "gameTime": f"{half} - {minutes:02d}:{seconds:02d}",
        "label": event.label,
        "position": str(milliseconds),
        "team": event.extra.get("team", "not applicable"),
        "visibility": event.extra.get("visibility", "visible"),
    }
