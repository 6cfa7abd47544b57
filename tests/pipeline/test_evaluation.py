"""`evaluate` against a case worked by hand, and over sets with videos that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

import pipeline_files
from pipeline.cascade import Cascade
from pipeline.describers.template import TemplateDescriber
from pipeline.evaluation import Evaluation, evaluate
from pipeline.run_records import CascadeSettings
from pipeline.scorers.base import FloatArray
from utils.config.schema import EventsConfig
from utils.data.annotations import AnnotatedEvent, AnnotationSet, VideoAnnotation
from utils.errors import AnnotationError, VideoNotFoundError

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
    **options: Any,
) -> Evaluation:
    cascade = Cascade(
        ColorScorer(),
        TemplateDescriber(),
        CascadeSettings(
            threshold=0.6,
            candidate_threshold=0.5,
            events=EventsConfig(context_seconds=0, merge_gap_seconds=0),
            max_frames=max_frames,
        ),
    )
    labels = tuple({event.label: None for video in videos for event in video.events})
    return evaluate(
        cascade,
        AnnotationSet(labels=labels, videos=tuple(videos)),
        decoder="pyav",
        point_radius_seconds=0.1,
        tolerance_seconds=tolerance_seconds,
        **options,
    )


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
    assert metrics["frame_ap_trigger_head"] == {
        "overall": pytest.approx((5 / 6 + 1 / 2) / 2),
        "per_class": {WALKING: pytest.approx(5 / 6), STOPPING: pytest.approx(1 / 2)},
    }
    assert metrics["frame_ap"] == {
        "overall": pytest.approx(3 / 4),
        "per_class": {WALKING: pytest.approx(1), STOPPING: pytest.approx(1 / 2)},
    }
    assert metrics["frame_auroc_trigger_head"]["per_class"] == {
        WALKING: pytest.approx(15 / 16),
        STOPPING: pytest.approx(8 / 9),
    }
    assert metrics["frame_auroc"]["overall"] == pytest.approx((1 + 8 / 9) / 2)
    # Published: walking [0.4, 0.8), which is right, and stopping [1.6, 1.8), which is 0.4 s late.
    assert metrics["event_precision"] == {
        "overall": 0.5,
        "per_class": {WALKING: 1.0, STOPPING: 0.0},
    }
    assert metrics["event_recall"]["overall"] == metrics["event_f1"]["overall"] == 0.5
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
