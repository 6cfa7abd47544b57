"""`IsolatedPyAvSource`: a decoder that gets stuck, dies or eats memory harms only itself."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from utils.errors import NotAVideoError, UsageError, VideoDecodeError
from utils.video.decoders.isolated import IsolatedPyAvSource
from utils.video.decoders.isolated_process import MAX_WORDS
from utils.video.decoders.isolated_worker import ProtocolError, read_message, write_message
from utils.video.decoders.pyav import PyAvSource
from utils.video.sampler import FrameSampler
from utils.video.source import VideoSource

Write = Callable[[Any], Path]
ROOT = Path(__file__).resolve().parents[3]

STALL_SECONDS = 2.0
"""For an answer that takes no time; long beside the pauses of a busy machine."""


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., IsolatedPyAvSource]:
    """Opens one of the decoders in ``tests/misbehaving_decoders.py``."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))

    def make(name: str, path: str = "video.mp4", **options: Any) -> IsolatedPyAvSource:
        kind = type(name, (IsolatedPyAvSource,), {"target": f"misbehaving_decoders:{name}"})
        source: IsolatedPyAvSource = kind(path, stall_seconds=STALL_SECONDS, **options)
        return source

    return make


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Stuck", "made no progress for 2 s and was stopped"),
        ("Crashing", "was killed by SIGSEGV"),
        ("Leaving", "ended by itself with exit code 3"),
        ("Hungry", "ran out of the memory that it may take"),
        ("Lying", "gave an answer that makes no sense (a header of 4294967295 bytes)"),
        ("LyingPolitely", "gave an answer that makes no sense (it is to no question)"),
    ],
)
def test_frames_before_the_end_count_and_the_rest_is_lost(
    watched: Callable[..., IsolatedPyAvSource], name: str, what: str
) -> None:
    with watched(name, memory_limit_bytes=1 << 30) as source:
        images, times = [], []
        for frame in source.frames():
            images.append(frame.rgb())
            times.append(frame.timestamp)
        assert times == [0.0, 0.5, 1.0]
        assert [int(image[0, 0, 0]) for image in images] == [0, 1, 2]
        assert source.loss.lost_seconds == pytest.approx(8.5)
        assert what in source.loss.notes[0]
        assert source.loss.notes[0].endswith("after 1.000 s: 8.50 s at the end are missing")
        assert source.gave_up
        # Read again, it starts anew, and where the first frame is asked for too late there is none.
        assert next(source.frames()).timestamp == 0.0
        assert not source.loss and not source.gave_up
        with pytest.raises(VideoDecodeError, match=r"before a frame at or after 1\.200 s"):
            next(source.frames(1.2))


@pytest.mark.parametrize("name", ["Stuck", "Crashing", "Leaving"])
def test_nothing_before_the_first_frame(
    watched: Callable[..., IsolatedPyAvSource], name: str
) -> None:
    with pytest.raises(VideoDecodeError, match=r"at_once\.mp4: the decoder .* before the first"):
        watched(name, "at_once.mp4")


def test_a_frame_that_is_held_outlives_its_process(
    watched: Callable[..., IsolatedPyAvSource],
) -> None:
    with watched("Crashing") as source:
        held = list(source.frames())
        assert [int(frame.rgb()[0, 0, 0]) for frame in held] == [0, 1, 2]


def test_frames_that_were_given_before_the_end_all_arrive(
    watched: Callable[..., IsolatedPyAvSource],
) -> None:
    """They are sent ahead of the questions; the process is dead before most of them are taken."""
    with watched("CrashingLate") as source:
        times = []
        for frame in source.frames():
            times.append(frame.timestamp)
            time.sleep(0.01)
        assert times == [index * 0.5 for index in range(20)]
        assert "was killed by SIGSEGV after 9.500 s" in source.loss.notes[0]


def test_a_frame_is_had_again_though_the_decoder_dies_of_what_lies_behind_it(
    watched: Callable[..., IsolatedPyAvSource],
) -> None:
    with watched("CrashingBehind") as source:
        frames = list(source.frames())
        assert [frame.timestamp for frame in frames] == [0.0, 0.5]
        assert [int(frame.rgb()[0, 0, 0]) for frame in frames] == [0, 1]


def test_frames_that_are_lost_for_good_are_not_waited_for_again_and_again(
    watched: Callable[..., IsolatedPyAvSource], tmp_path: Path
) -> None:
    with watched("CrashingForGood", str(tmp_path / "a.mp4")) as source:
        frames = list(source.frames())
        for frame in frames:
            with pytest.raises(VideoDecodeError, match=r"SIGSEGV; its frame at .* s went with it"):
                frame.rgb()
    assert (tmp_path / "a.mp4.opened").read_text() == "xx", "tried again once, for all of them"


def test_what_nobody_took_is_released_in_the_other_process(
    watched: Callable[..., IsolatedPyAvSource],
) -> None:
    with watched("Endless") as source:
        frames = source.frames()
        held = [next(frames) for _ in range(30)]
        frames.close()
        # Answers to the question that was stopped are let go of as they come.
        next(source.frames())
        given = {frame._key for frame in held}
        waiting = set(source._process.released)
        assert waiting and not waiting & given
        assert [int(frame.rgb()[0, 0, 0]) for frame in held] == list(range(30))


def test_a_question_stays_small_whatever_is_over(
    watched: Callable[..., IsolatedPyAvSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def counted(write: Callable[[memoryview], int], header: dict[str, Any]) -> None:
        sizes.append(len(header["release"]))
        write_message(write, header)

    with watched("Endless") as source:
        frames = source.frames()
        held = [next(frames) for _ in range(2000)]
        del held
        monkeypatch.setattr("utils.video.decoders.isolated_process.write_message", counted)
        for _ in range(40):
            next(frames)
        assert max(sizes) == MAX_WORDS and sum(sizes) >= 2000


def test_what_is_interrupted_is_not_mistaken_for_an_answer(
    watched: Callable[..., IsolatedPyAvSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched("Endless") as source:
        frames = source.frames()
        next(frames)
        process = source._process
        honest = process._receive

        def interrupted(size: int, *, patience: Any) -> bytearray:
            honest(min(size, 2), patience=patience)
            raise KeyboardInterrupt

        monkeypatch.setattr(process, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(frames)
        assert process._process.poll() is not None
        assert process.why_gone == "was stopped because reading from it was interrupted"
        assert [frame.frame_index for frame in itertools.islice(source.frames(), 3)] == [0, 1, 2]


def test_a_pause_of_both_processes_is_no_stall(
    watched: Callable[..., IsolatedPyAvSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock goes on while a container is paused; who wakes first has not been kept waiting."""
    hours = 0.0
    honest = time.monotonic
    monkeypatch.setattr(
        "utils.video.decoders.isolated_process.time.monotonic", lambda: honest() + hours * 3600
    )
    with watched("Good") as source:
        selector = source._process._selector
        wait = selector.select

        def paused(seconds: float) -> Any:
            nonlocal hours
            hours += 1
            return [] if hours <= 2 else wait(seconds)

        monkeypatch.setattr(selector, "select", paused)
        assert len(list(source.frames())) == 3
        assert not source.loss


def test_belongs_to_the_process_that_opened_it(
    watched: Callable[..., IsolatedPyAvSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched("Good") as source:
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: -1)
            with pytest.raises(UsageError, match="another process opened cannot be read here"):
                next(source.frames())
        assert len(list(source.frames())) == 3


def test_a_process_that_cannot_be_killed_is_left_behind(
    watched: Callable[..., IsolatedPyAvSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs in the kernel, on a network drive that is gone, takes no signal."""
    source = watched("Good")
    popen = source._process._process

    def wait(timeout: float) -> int:
        raise subprocess.TimeoutExpired("decoder", timeout)

    with monkeypatch.context() as stuck:
        stuck.setattr(popen, "wait", wait)
        source.close()
    assert popen.wait(30) != 0


def test_a_decoder_that_refuses_to_begin(watched: Callable[..., IsolatedPyAvSource]) -> None:
    with watched("Refusing") as source:
        with pytest.raises(VideoDecodeError, match=r"^video\.mp4: it is gone$"):
            next(source.sparse_frames(max_time_error_seconds=0.1))
        assert len(list(source.frames())) == 3


def test_a_folder_of_the_same_name_where_the_caller_is_does_not_matter(
    tmp_path: Path, written: Write, video_files: ModuleType
) -> None:
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "__init__.py").write_text("raise ImportError('somebody else’s utils')")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from utils.video.source import VideoSource\n"
        f"with VideoSource.open({str(written(video_files.RECIPES[0]))!r}, decoder='pyav_isolated') "
        "as source: print(len(list(source.frames())))\n"
    )
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "script.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "own/script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("40\n", "")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system has no /proc")
def test_want_of_memory_does_not_pass_for_damage(tmp_path: Path, video_files: ModuleType) -> None:
    size = {"width": 1280, "height": 960}
    fast = {"preset": "ultrafast"}
    recipe = video_files.Recipe(name="a.mp4", ticks=range(200), options=fast, **size)
    path = recipe.write(tmp_path)
    with IsolatedPyAvSource(path) as source:
        sum(1 for _ in source.frames())
        pages = Path(f"/proc/{source._process._process.pid}/statm").read_text().split()[0]
    limit = int(pages) * os.sysconf("SC_PAGE_SIZE") + 20 * 3 * 1280 * 960
    with IsolatedPyAvSource(path, memory_limit_bytes=limit) as source:
        # They lie in the other process as long as they are held.
        held = list(source.frames())
        assert 10 < len(held) < 200
        (note,) = source.loss.notes[-1:]
        assert note.startswith("the decoder ran out of the memory that it may take after ")
        assert source.loss.num_corrupt_packets == 0 and len(source.loss.notes) == 1
        assert source.gave_up
    with IsolatedPyAvSource(path, memory_limit_bytes=limit) as source:
        assert sum(1 for _ in source.frames()) == 200
        assert not source.loss


def test_sampling_goes_on_to_where_the_decoder_died(
    watched: Callable[..., IsolatedPyAvSource],
) -> None:
    with watched("Crashing") as source:
        sampler = FrameSampler(fps=2, neighbor_offsets_seconds=(0.5,))
        samples = list(sampler.stream(source))
        assert [sample.timestamp for sample in samples] == [0.0, 0.5, 1.0]
        assert [int(image[0, 0, 0]) for image in samples[1].neighbors] == [0, 2]
        assert source.loss.lost_seconds == pytest.approx(8.5)


def test_what_a_library_prints_is_no_answer(watched: Callable[..., IsolatedPyAvSource]) -> None:
    with watched("Babbling") as source:
        assert len(list(source.frames())) == 3
        assert not source.loss


def test_errors_come_through_with_their_class(tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    with pytest.raises(NotAVideoError, match="in no container that FFmpeg knows"):
        IsolatedPyAvSource(tmp_path / "noise.mp4")


def test_frames_are_released_when_they_are_let_go(written: Write, video_files: ModuleType) -> None:
    with IsolatedPyAvSource(written(video_files.RECIPES[0])) as source:
        for frame in source.frames():
            key = frame._key
        del frame
        assert source._process.released == [key]


def test_process_ends_with_its_source(written: Write, video_files: ModuleType) -> None:
    source = IsolatedPyAvSource(written(video_files.RECIPES[0]))
    process = source._process._process
    assert process.poll() is None
    frame = next(source.frames())
    source.close()
    assert process.poll() is not None
    with pytest.raises(UsageError, match="the source is closed; take pixels before that"):
        frame.rgb()


def test_keys_of_the_terminal_do_not_reach_the_process(
    written: Write, video_files: ModuleType
) -> None:
    """Ctrl-C is the caller's to handle: a file must not end where somebody pressed it."""
    with IsolatedPyAvSource(written(video_files.RECIPES[0])) as source:
        assert os.getpgid(source._process._process.pid) != os.getpgrp()


def test_does_without_a_wide_pipe(
    written: Write, video_files: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("this user has too many pages in pipes")

    monkeypatch.setattr("fcntl.fcntl", refuse)
    with IsolatedPyAvSource(written(video_files.RECIPES[0])) as source:
        assert next(source.frames()).rgb().any()


def test_needs_posix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.video.decoders.isolated.os.name", "nt")
    with pytest.raises(UsageError, match=r"'pyav_isolated' needs Linux or macOS; choose another"):
        IsolatedPyAvSource("video.mp4")


def test_process_ends_when_nobody_holds_its_source(written: Write, video_files: ModuleType) -> None:
    source = IsolatedPyAvSource(written(video_files.RECIPES[0]))
    process = source._process._process
    del source
    assert process.poll() is not None


def test_process_ends_with_a_caller_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from utils.video.decoders.isolated import IsolatedPyAvSource\n"
        "class Stuck(IsolatedPyAvSource): target = 'misbehaving_decoders:Stuck'\n"
        "source = Stuck('video.mp4')\n"
        "print(source._process._process.pid, flush=True)\n"
        "list(source.frames())\n"
    )
    search = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": search},
        text=True,
    ) as caller:
        assert caller.stdout is not None
        pid = int(caller.stdout.readline())
        time.sleep(0.5)
        caller.kill()
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    # A zombie waits only for whoever inherited it.
    return state != "Z"


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_stall_seconds_out_of_range(seconds: float) -> None:
    with pytest.raises(UsageError, match="stall_seconds must be above 0, got"):
        IsolatedPyAvSource("video.mp4", stall_seconds=seconds)


@pytest.mark.parametrize("kind", [PyAvSource, IsolatedPyAvSource])
def test_num_threads(kind: type[VideoSource], written: Write, video_files: ModuleType) -> None:
    path = written(video_files.RECIPES[0])
    with kind(path, num_threads=1) as one, kind(path) as many:  # type: ignore[call-arg]
        for frame, other in zip(one.frames(), many.frames(), strict=True):
            np.testing.assert_array_equal(frame.rgb(), other.rgb())
    with pytest.raises(UsageError, match=r"num_threads must be at least 1, or None .*; got 0"):
        kind(path, num_threads=0)  # type: ignore[call-arg]


def through(data: bytes) -> Callable[[int], bytes]:
    place = 0

    def read(size: int) -> bytes:
        nonlocal place
        place += size
        return data[place - size : place]

    return read


def test_messages_survive_the_way() -> None:
    data = bytearray()

    def write_a_little(piece: memoryview) -> int:
        data.extend(piece[:7])
        return min(7, len(piece))

    write_message(write_a_little, {"do": "rgb", "näme": [1, 2.5, None]}, bytes(range(256)))
    header, payload = read_message(through(bytes(data)))
    assert header == {"do": "rgb", "näme": [1, 2.5, None], "num_bytes": 256}
    assert payload == bytes(range(256))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xff\xff\xff", "a header of 4294967295 bytes"),
        (b"\0\0\0\x02[]", "no JSON object with num_bytes"),
        (b"\0\0\0\x02{}", "no JSON object with num_bytes"),
        (b"\0\0\0\x02}{", "no JSON object with num_bytes"),
        (b'\0\0\0\x10{"num_bytes":-1}', "-1 bytes of pixels"),
    ],
)
def test_what_is_no_message(data: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        read_message(through(data))


def test_readings_that_are_left_are_ended_in_the_other_process(
    written: Write, video_files: ModuleType
) -> None:
    with IsolatedPyAvSource(written(video_files.RECIPES[0])) as source:
        for _ in range(3):
            next(source.frames())
        assert source._process.stopped == [5]
        list(source.frames())
        assert len(source._process.stopped) == 1
