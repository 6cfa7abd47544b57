"""`evaluate` against a case worked by hand, and over sets with videos that cannot be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

import pipeline_files
from pipeline.cascade import Cascade
from pipeline.describers.template import TemplateDescriber
from pipeline.evaluation import Evaluation, EvaluationSettings, evaluate, evaluate_scores
from pipeline.run_records import CascadeSettings
from pipeline.score_file import ScoreWriter
from pipeline.scorers.base import FloatArray
from utils.config.schema import EventsConfig
from utils.data.annotations import AnnotatedEvent, AnnotationSet, VideoAnnotation
from utils.errors import AnnotationError, UsageError, VideoError, VideoNotFoundError
from utils.events.records import FrameScore

WALKING, STOPPING = pipeline_files.LABELS
FPS = 5


class ColorScorer(pipeline_files.FakeScorer):
    """Red is the trigger head's score for walking and blue the temporal encoder's; green is both
    scores for stopping."""

    def encode_and_trigger(
        self, pixels: FloatArray, state: Any
    ) -> tuple[FloatArray, FloatArray, Any]:
        features = (8 * (pixels.mean((2, 3)) - 0.5)).astype(np.float32)
        return features, features[:, :2].copy(), None

    def contextualize(
        self, features: FloatArray, timestamps: NDArray[np.float64], valid: NDArray[np.bool_]
    ) -> FloatArray:
        return features[..., [2, 1]].copy()


# Frame number to red, green, blue; the other frames are black.
COLORS = {2: (200, 0, 250), 3: (250, 0, 250), 6: (220, 130, 60), 8: (0, 240, 0)}


def write_colors(path: Path, num_frames: int = 10) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        for number in range(num_frames):
            image = np.empty((48, 64, 3), np.uint8)
            image[:] = COLORS.get(number, (0, 0, 0))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    return path


def event(label: str, start: float, end: float) -> AnnotatedEvent:
    return AnnotatedEvent(label=label, start=start, end=end)


def annotated(path: Path, *events: AnnotatedEvent) -> VideoAnnotation:
    return VideoAnnotation(video=path.name, path=path, events=events)


def run(
    videos: list[VideoAnnotation],
    tolerance_seconds: float = 0.2,
    *,
    max_frames: int | None = None,
    on_done: Callable[[str], None] = lambda name: None,
    **settings: Any,
) -> Evaluation:
    return evaluate(
        Cascade(
            ColorScorer(), TemplateDescriber(), dataclasses.replace(RUN, max_frames=max_frames)
        ),
        annotation_set(videos),
        decoder="pyav",
        settings=EvaluationSettings(
            point_radius_seconds=0.1,
            tolerance_seconds=tolerance_seconds,
            **{"num_draws": 20, **settings},
        ),
        on_done=on_done,
    )


RUN = CascadeSettings(
    threshold=0.6,
    candidate_threshold=0.5,
    events=EventsConfig(context_seconds=0, merge_gap_seconds=0),
)


def annotation_set(videos: list[VideoAnnotation]) -> AnnotationSet:
    labels = tuple({event.label: None for video in videos for event in video.events})
    return AnnotationSet(labels=labels, videos=tuple(videos))


def values(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A figure without its interval."""
    return {key: value for key, value in entry.items() if key != "interval"}


@pytest.fixture
def clip(tmp_path: Path) -> VideoAnnotation:
    path = write_colors(tmp_path / "clip.mp4")
    return annotated(path, event(WALKING, 0.4, 0.8), event(STOPPING, 1.2, 1.4))


def test_a_case_worked_by_hand(clip: VideoAnnotation) -> None:
    evaluation = run([clip])
    metrics = evaluation.metrics
    assert evaluation.failed == {}
    # Walking is at frames 2 and 3. The trigger head ranks 3, 6, 2: precision 1/1 and 2/3 at each
    # half of the recall, and one of its 2 x 8 pairs is the wrong way round. The temporal encoder
    # puts 2 and 3 first. Stopping is at frame 6, and both put 8 before it, one of 9.
    assert values(metrics["frame_ap_trigger_head"]) == {
        "overall": pytest.approx((5 / 6 + 1 / 2) / 2),
        "per_class": {WALKING: pytest.approx(5 / 6), STOPPING: pytest.approx(1 / 2)},
    }
    assert values(metrics["frame_ap"]) == {
        "overall": pytest.approx(3 / 4),
        "per_class": {WALKING: pytest.approx(1), STOPPING: pytest.approx(1 / 2)},
    }
    assert metrics["frame_auroc_trigger_head"]["per_class"] == {
        WALKING: pytest.approx(15 / 16),
        STOPPING: pytest.approx(8 / 9),
    }
    assert metrics["frame_auroc"]["overall"] == pytest.approx((1 + 8 / 9) / 2)
    # Published: walking [0.4, 0.8), which is right, and stopping [1.6, 1.8), which is 0.4 s late.
    assert values(metrics["event_precision"]) == {
        "overall": 0.5,
        "per_class": {WALKING: 1.0, STOPPING: 0.0},
    }
    assert metrics["event_recall"]["overall"] == metrics["event_f1"]["overall"] == 0.5
    # Both alarms are in time, though the second event is too late for its border.
    assert values(metrics["alarm_recall"])["per_class"] == {WALKING: 1.0, STOPPING: 1.0}
    assert metrics["time_to_detect_seconds"]["per_class"][STOPPING]["median"] == pytest.approx(0.4)
    assert metrics["false_alarms_per_hour"]["overall"] == 0
    assert metrics["sent_share"]["overall"] == pytest.approx((0.4 + 0.2) / 2)
    # One video is no sample of anything, but a count is a count.
    assert metrics["event_f1"]["interval"]["overall"] is None
    low, high = metrics["false_alarms_per_hour"]["interval"]["overall"]
    assert low == 0 and high > 1000
    assert metrics["bootstrap"] == {
        "unit": "group",
        "num_units": 1,
        "num_draws": 0,
        "confidence": 0.95,
    }
    assert metrics["num_frames"] == 10
    assert metrics["num_positive_frames"] == {WALKING: 2, STOPPING: 1}
    assert (metrics["num_videos"], metrics["duration_seconds"]) == (1, 2.0)
    # At the candidates alone: 2, 3, 6 and 8.
    assert metrics["contextualized_share"] == 0.4
    assert (metrics["threshold"], metrics["candidate_threshold"]) == (0.6, 0.5)


def test_a_wider_tolerance_forgives_the_late_event(clip: VideoAnnotation) -> None:
    assert run([clip], tolerance_seconds=0.5).metrics["event_f1"]["overall"] == 1.0


def test_videos_are_watched_whole(clip: VideoAnnotation) -> None:
    assert run([clip], max_frames=4).metrics == run([clip]).metrics


def test_frames_of_all_videos_are_ranked_together(clip: VideoAnnotation, tmp_path: Path) -> None:
    """In the second video walking is not annotated: its frames 2, 3 and 6 are false alarms."""
    again = annotated(write_colors(tmp_path / "again.mp4"))
    metrics = run([clip, again]).metrics
    # Equal scores are one step of the ranking: 4 frames of 250 (temporal), 2 of them right.
    assert metrics["frame_ap"]["per_class"][WALKING] == pytest.approx(2 / 4)
    assert metrics["event_precision"]["per_class"][WALKING] == pytest.approx(1 / 2)
    assert (metrics["num_videos"], metrics["num_frames"]) == (2, 20)


def test_a_class_without_positives_has_no_average_precision(tmp_path: Path) -> None:
    video = annotated(write_colors(tmp_path / "a.mp4"), event(WALKING, 0.4, 0.8))
    metrics = run([video]).metrics
    assert metrics["frame_ap"]["per_class"][STOPPING] is None
    assert metrics["frame_ap"]["overall"] == pytest.approx(1)


def test_a_point_reaches_as_far_as_it_is_told(tmp_path: Path) -> None:
    video = annotated(write_colors(tmp_path / "a.mp4"), event(WALKING, 0.6, 0.6))
    metrics = run([video]).metrics
    # [0.5, 0.7) holds the frame at 0.6 s alone.
    assert metrics["num_positive_frames"][WALKING] == 1
    assert metrics["event_f1"]["per_class"][WALKING] == 1.0


def test_the_others_are_evaluated_where_some_cannot_be(
    clip: VideoAnnotation, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"this is no video")
    gone = tmp_path / "gone.mp4"
    seen: list[str] = []
    truth = event(WALKING, 0.0, 1.0)
    evaluation = run([annotated(gone, truth), clip, annotated(bad, truth)], on_done=seen.append)
    assert evaluation.metrics == run([clip]).metrics
    assert list(evaluation.failed) == ["gone.mp4", "bad.mp4"]
    assert evaluation.failed["gone.mp4"] == "no such file"
    assert evaluation.failed["bad.mp4"]
    assert seen == ["gone.mp4", "clip.mp4", "bad.mp4"]


def test_no_video_at_all(tmp_path: Path) -> None:
    with pytest.raises(VideoNotFoundError, match=r"gone\.mp4: no such file"):
        run([annotated(tmp_path / "gone.mp4", event(WALKING, 0.0, 1.0))])


def test_a_label_that_the_model_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=f"unknown label 'walking'; known: {WALKING}, "):
        run([annotated(tmp_path / "gone.mp4", event("walking", 0.0, 1.0))])


def save_scores(
    video: VideoAnnotation, path: Path, *, settings: CascadeSettings = RUN, **changes: Any
) -> Path:
    """What `inference.py --save-scores` keeps of a video."""
    scores: list[FrameScore] = []
    result = Cascade(ColorScorer(), TemplateDescriber(), settings).run(
        video.path, observe=scores.append
    )
    with ScoreWriter(path, pipeline_files.LABELS) as writer:
        for score in scores:
            writer.add(score)
        writer.finish(
            {
                "video_path": str(video.path),
                "model": {"checkpoint": "fake"},
                "sampling": {},
                "threshold": settings.threshold,
                "candidate_threshold": settings.candidate_threshold,
                "context_seconds": settings.events.context_seconds,
                "max_gap_seconds": 2.0,
                "source": dict(result.totals.source),
                "loss": dataclasses.asdict(result.totals.loss),
                **changes,
            }
        )
    return path


def run_scores(
    paths: list[Path], videos: list[VideoAnnotation], settings: CascadeSettings = RUN
) -> Evaluation:
    return evaluate_scores(
        paths,
        annotation_set(videos),
        settings,
        settings=EvaluationSettings(point_radius_seconds=0.1, tolerance_seconds=0.2, num_draws=20),
    )


def test_saved_scores_give_the_same_metrics(clip: VideoAnnotation, tmp_path: Path) -> None:
    again = annotated(write_colors(tmp_path / "again.mp4"), event(WALKING, 0.0, 1.0))
    paths = [save_scores(video, tmp_path / f"{video.video}.npz") for video in (again, clip)]
    # The videos themselves are not touched.
    expected = run([clip, again]).metrics
    (tmp_path / "clip.mp4").unlink()
    assert run_scores(paths, [clip, again]).metrics == expected


def test_scores_from_elsewhere_are_found_by_name(clip: VideoAnnotation, tmp_path: Path) -> None:
    path = save_scores(clip, tmp_path / "s.npz", video_path="/elsewhere/clip.mp4")
    assert run_scores([path], [clip]).metrics == run([clip]).metrics


def test_scores_of_no_annotated_video(
    clip: VideoAnnotation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = save_scores(clip, tmp_path / "o.npz", video_path="/elsewhere/other.mp4")
    with pytest.raises(
        UsageError,
        match=r"--scores: none of 1 files is of a video in the annotations; .*o\.npz is of "
        r"/elsewhere/other\.mp4",
    ):
        run_scores([other], [clip])
    own = save_scores(clip, tmp_path / "s.npz")
    missing = annotated(tmp_path / "more.mp4", event(STOPPING, 0.0, 1.0))
    evaluation = run_scores([other, own], [clip, missing])
    assert "passed over: " in caplog.text
    assert evaluation.failed == {"more.mp4": "no score file of it was given"}
    assert evaluation.metrics["num_videos"] == 1


def test_scores_that_do_not_fit(clip: VideoAnnotation, tmp_path: Path) -> None:
    own = save_scores(clip, tmp_path / "s.npz")
    twin = save_scores(clip, tmp_path / "twin.npz")
    with pytest.raises(UsageError, match=r"twin\.npz: .*s\.npz holds scores of clip\.mp4, too"):
        run_scores([own, twin], [clip])
    other = save_scores(clip, tmp_path / "m.npz", model={"checkpoint": "other"})
    with pytest.raises(UsageError, match=r"m\.npz: scored by another model than .*s\.npz"):
        run_scores([own, other], [clip])
    with pytest.raises(UsageError, match=r"holds no temporal score at 0\.00 s"):
        run_scores([own], [clip], dataclasses.replace(RUN, candidate_threshold=0.0))


def test_a_score_file_without_frames(clip: VideoAnnotation, tmp_path: Path) -> None:
    path = tmp_path / "empty.npz"
    save_scores(clip, tmp_path / "s.npz")
    with ScoreWriter(path, pipeline_files.LABELS) as writer:
        writer.finish(
            {
                "video_path": str(clip.path),
                "model": {},
                "sampling": {},
                "threshold": 0.5,
                "candidate_threshold": 0.5,
                "context_seconds": 0.0,
                "max_gap_seconds": 2.0,
                "source": {"duration_seconds": None},
                "loss": {"num_corrupt_packets": 0, "lost_seconds": 0.0, "notes": []},
            }
        )
    with pytest.raises(VideoError, match=r"clip\.mp4: its score file holds no frame"):
        run_scores([path], [clip])


def grouped(tmp_path: Path) -> Iterator[VideoAnnotation]:
    for number in range(4):
        path = write_colors(tmp_path / f"{number}.mp4", num_frames=8 + number)
        found = event(WALKING, 0.4, 0.8)
        yield VideoAnnotation(
            video=path.name,
            path=path,
            group=f"camera {number % 2}",
            events=(
                dataclasses.replace(found, extra={"speed": "fast" if number else "slow"}),
                event(STOPPING, 0.0, 0.3),
            ),
            extra={"light": "night" if number == 3 else "day"},
        )


def test_groups_or_videos_are_drawn(tmp_path: Path) -> None:
    videos = list(grouped(tmp_path))
    by_group, by_video = (run(videos, resample=unit).metrics for unit in ("group", "video"))
    assert by_group["bootstrap"]["num_units"] == 2
    assert by_video["bootstrap"]["num_units"] == 4
    assert by_group["frame_ap"]["overall"] == by_video["frame_ap"]["overall"]
    assert by_group["frame_ap"]["interval"]["overall"] is not None
    none = run(videos, num_draws=0).metrics
    assert none["frame_ap"]["interval"]["overall"] is None
    assert none["bootstrap"]["num_draws"] == 0


def test_slices_of_videos_and_of_events(tmp_path: Path) -> None:
    videos = list(grouped(tmp_path))
    slices = run(videos, slice_by=("light", "speed")).metrics["slices"]
    assert list(slices) == ["light", "speed"]
    night = slices["light"]["videos"]["night"]
    alone = run([videos[3]]).metrics
    assert night["num_videos"] == 1
    for key in ("frame_ap", "event_f1", "segment_map", "false_alarms_per_hour"):
        assert night[key] == values(alone[key])
    assert slices["light"]["videos"]["day"]["num_videos"] == 3
    assert list(slices["light"]) == ["videos"]
    speeds = slices["speed"]["events"]
    assert {name: entry["num_references"] for name, entry in speeds.items()} == {
        "(none)": 4,
        "fast": 3,
        "slow": 1,
    }
    assert speeds["fast"]["alarm_recall"] == 1.0
    assert speeds["fast"]["median_seconds_to_detect"] == pytest.approx(0.0)
    assert speeds["(none)"]["num_detected"] == 0
    assert speeds["(none)"]["median_seconds_to_detect"] is None
    low, high = speeds["fast"]["alarm_recall_interval"]
    assert 0 < low < high == 1.0


def test_a_field_that_nothing_has(clip: VideoAnnotation) -> None:
    with pytest.raises(UsageError, match=r"--slice-by light: no video and no event"):
        run([clip], slice_by=("light",))


def test_each_class_has_its_threshold(clip: VideoAnnotation) -> None:
    settings = dataclasses.replace(RUN, threshold=(0.6, 0.99))
    metrics = evaluate(
        Cascade(ColorScorer(), TemplateDescriber(), settings),
        annotation_set([clip]),
        decoder="pyav",
        settings=EvaluationSettings(num_draws=0),
    ).metrics
    assert metrics["threshold"] == {WALKING: 0.6, STOPPING: 0.99}
    counts = metrics["alarm_counts"]["per_class"]
    assert {label: counts[label]["num_alarms"] for label in counts} == {WALKING: 1, STOPPING: 0}
