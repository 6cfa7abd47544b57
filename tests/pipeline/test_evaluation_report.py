"""The page of an evaluation: what is on it, that it reaches out to nothing, and that it opens."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline_files
from pipeline.evaluation import Evaluation, EvaluationSettings, metrics_of
from pipeline.evaluation_report import TIMELINES_A_PAGE, write_report
from pipeline.run_records import CascadeSettings
from scored_videos import annotated, evidence_of, scored
from utils.data.annotations import VideoAnnotation
from utils.errors import UsageError
from utils.evaluation.scored_video import ScoredVideo

HOSTILE = "<script>alert('x')</script> & \"quotes\" \udcff"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


def evaluation_of(*videos: ScoredVideo, paths: list[Path], **extra: Any) -> Evaluation:
    evidence = evidence_of(*videos)
    listed = tuple(
        VideoAnnotation(video=video.name, path=path, events=video.references, extra=extra)
        for video, path in zip(videos, paths, strict=True)
    )
    settings = EvaluationSettings(num_draws=20, slice_by=tuple(extra))
    return Evaluation(
        metrics=metrics_of(evidence, listed, settings),
        videos=listed,
        evidence=evidence,
        settings=CascadeSettings(threshold=0.5, candidate_threshold=0.1),
    )


def content_of(evaluation: Evaluation, **changes: Any) -> dict[str, Any]:
    return {
        **evaluation.metrics,
        "threshold": 0.5,
        "candidate_threshold": 0.1,
        "model": {"checkpoint": "c.pt"},
        "failed": {},
        **changes,
    }


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = pipeline_files.write_video(tmp_path_factory.mktemp("videos") / "clip.mp4")
    return path


def ten_seconds(name: str, *, cluster: str | None = None) -> ScoredVideo:
    """One event found, one missed, one false alarm; and a second class that is quiet."""
    scores = np.full((50, 2), 0.05)
    scores[10:16, 0] = 0.9
    scores[40:44, 0] = 0.8
    return scored(
        scores,
        [annotated(2.0, 3.2), annotated(5.0, 6.0), annotated(7.0, label="b")],
        timestamps=np.arange(50) / 5,
        name=name,
        cluster=cluster,
        end_seconds=10.0,
    )


@pytest.fixture
def evaluation(clip: Path) -> Evaluation:
    videos = [ten_seconds("clip.mp4"), ten_seconds("gone.mp4")]
    return evaluation_of(*videos, paths=[clip, clip.with_name("gone.mp4")], light="night")


class Page(HTMLParser):
    """What a page holds: text by heading, tags, attributes, and whether it closes what it opens."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_what_is_on_the_page(evaluation: Evaluation, tmp_path: Path) -> None:
    path = write_report(evaluation, content_of(evaluation), tmp_path / "r", title="truth.json")
    assert path == tmp_path / "r" / "index.html"
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]
    page = page_of(path)
    for words in (
        *("truth.json", "2 videos, 20.0 s", "6 annotated events", "threshold 0.5", "c.pt"),
        *("4 of 6", "events missed", "false alarms per hour", "2 in "),
        *("Precision and recall of frames", "Recall against false alarms per hour", "Reliability"),
        *("Recall against the share sent to stage three", "Time to detect", "By light", "night"),
        *("Missed events", "False alarms", "Timelines", "2 missed", "highest score 0.05"),
        "confidence 0.80, alarm at 0:08.00",
    ):
        assert words in page.text, words
    # A timeline of each video, six curves, and the scores around each mistake.
    assert page.tags.count("svg") == 2 + 6 + 4 + 2
    # Pictures of the video that is there; a reason in the place of those of the other.
    assert page.tags.count("img") >= 12
    assert "gone.mp4: no such file" in page.text
    links = {value for tag, name, value in page.attributes if (tag, name) == ("a", "href")}
    anchors = {value for _, name, value in page.attributes if name == "id"}
    assert links == {"index.html#v0", "index.html#v1"}
    assert anchors == {"v0", "v1"}


def test_it_reaches_out_to_nothing_and_runs_nothing(evaluation: Evaluation, tmp_path: Path) -> None:
    path = write_report(evaluation, content_of(evaluation), tmp_path, title="t")
    page = page_of(path)
    assert not {"script", "link", "iframe", "object", "embed", "form"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href"):
            assert value.startswith(("data:image/jpeg;base64,", "index.html#")), value
    text = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|url\(|@import", text)


def test_hostile_names(clip: Path, tmp_path: Path) -> None:
    videos = [ten_seconds(HOSTILE), ten_seconds("b.mp4")]
    labels = (f"a {HOSTILE}", f"b {HOSTILE}")
    renamed = [
        dataclasses.replace(
            video,
            labels=labels,
            references=tuple(
                dataclasses.replace(event, label=labels["ab".index(event.label)])
                for event in video.references
            ),
        )
        for video in videos
    ]
    evaluation = evaluation_of(*renamed, paths=[clip, clip], **{HOSTILE: HOSTILE})
    content = content_of(evaluation, model={"checkpoint": HOSTILE}, failed={HOSTILE: HOSTILE})
    path = write_report(evaluation, content, tmp_path, title=HOSTILE)
    page = page_of(path)
    assert "script" not in page.tags
    assert page.text.count("<script>alert('x')</script>") > 10


def test_many_videos_are_on_several_pages(clip: Path, tmp_path: Path) -> None:
    count = TIMELINES_A_PAGE + 3
    quiet = [
        scored([[0.1, 0.1], [0.2, 0.2]], name=f"{number:03}.mp4") for number in range(count - 1)
    ]
    evaluation = evaluation_of(*quiet, ten_seconds("worst.mp4"), paths=[clip] * count)
    write_report(evaluation, content_of(evaluation), tmp_path, title="t", num_worst=1)
    first, second = (page_of(tmp_path / name) for name in ("index.html", "timelines_2.html"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["index.html", "timelines_2.html"]
    # The worst comes first, whatever its place in the file.
    assert first.text.index("worst.mp4 10.0 s") < first.text.index("000.mp4")
    assert "1; shown are" not in first.text
    assert "2; shown are the 1 where the score was lowest" in first.text
    ids = [value for page in (first, second) for _, name, value in page.attributes if name == "id"]
    assert sorted(ids) == sorted(f"v{number}" for number in range(count))
    assert ("a", "href", "timelines_2.html") in first.attributes
    assert ("a", "href", "index.html") in second.attributes


def test_nothing_annotated_and_nothing_found(clip: Path, tmp_path: Path) -> None:
    evaluation = evaluation_of(scored([0.0, 0.0, 0.0], is_seen=[False] * 3), paths=[clip])
    path = write_report(evaluation, content_of(evaluation), tmp_path, title="t")
    page = page_of(path)
    assert "0 of 0" in page.text
    assert "nothing to draw from" in page.text
    assert "nan" not in path.read_text(encoding="utf-8").lower()


def test_a_long_video_is_no_larger_than_a_short_one(clip: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    evaluation = evaluation_of(
        scored(draw.random(30_000) * 0.4, timestamps=np.arange(30_000) / 5), paths=[clip]
    )
    path = write_report(evaluation, content_of(evaluation), tmp_path, title="t")
    assert path.stat().st_size < 150_000


def test_a_folder_that_takes_no_page(evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "index.html").mkdir()
    with pytest.raises(UsageError, match=r"index\.html: cannot be written: it is a folder"):
        write_report(evaluation, content_of(evaluation), tmp_path, title="t")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")
def test_it_opens_in_a_browser_without_network(evaluation: Evaluation, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    path = write_report(evaluation, content_of(evaluation), tmp_path, title="truth.json")
    shot, log = tmp_path / "shot.png", tmp_path / "browser.log"
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        # Nothing resolves: whatever asked for the network would fail, and be logged.
        *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,3600"),
        *(f"--screenshot={shot}", path.as_uri()),
    ]
    with log.open("w") as file:
        subprocess.run(command, stderr=file, stdout=file, check=True, timeout=120)
    complaints = [line for line in log.read_text().splitlines() if "CONSOLE" in line]
    assert complaints == []
    from PIL import Image

    with Image.open(shot) as picture:
        assert picture.size == (1400, 3600)
        colors = picture.convert("RGB").getcolors(1 << 24)
    assert colors is not None
    # Pictures, curves and text, and not a blank page: the blue of the first curve is there.
    shown = {color for _, color in colors}
    assert (0x2F, 0x6F, 0xB5) in shown
    assert (0xD1, 0x24, 0x2F) in shown
    assert len(shown) > 2000
