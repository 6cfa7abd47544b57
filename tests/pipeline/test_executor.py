"""`prefetch`: order, errors, bounds, and that no thread is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.executor import map_in_processes, prefetch
from utils.errors import VideoTriggerError


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_items_come_in_order_and_the_thread_ends() -> None:
    assert list(prefetch(range(100), depth=3)) == list(range(100))
    assert not prefetch_threads()


def test_works_in_another_thread() -> None:
    def names() -> Iterator[str]:
        yield threading.current_thread().name

    assert list(prefetch(names(), depth=1)) == ["prefetch"]


def test_error_comes_after_the_items_before_it() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("broken")

    items = prefetch(broken(), depth=5)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(OSError, match="broken"):
        next(items)
    assert not prefetch_threads()


def test_error_while_starting_or_closing_is_no_deadlock() -> None:
    class NotIterable:
        def __iter__(self) -> Iterator[int]:
            raise OSError("cannot start")

    with pytest.raises(OSError, match="cannot start"):
        list(prefetch(NotIterable(), depth=1))

    def breaks_at_the_end() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise OSError("cannot close")

    with pytest.raises(OSError, match="cannot close"):
        list(prefetch(breaks_at_the_end(), depth=1))
    assert not prefetch_threads()


def test_never_more_ahead_than_its_depth() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number

    fetched = prefetch(items(), depth=2)
    next(fetched)
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        # One was taken, two wait, and one is in the hand of the thread.
        assert len(made) <= 4
        time.sleep(0.01)
    fetched.close()


def test_closing_early_closes_the_source_in_its_own_thread() -> None:
    closed_in: list[str] = []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed_in.append(threading.current_thread().name)

    items = prefetch(endless(), depth=1)
    next(items)
    items.close()
    assert closed_in == ["prefetch"]
    assert not prefetch_threads()


def test_without_iteration_there_is_no_thread() -> None:
    items = prefetch(range(3), depth=1)
    assert not prefetch_threads()
    items.close()


def test_depth_must_be_positive() -> None:
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        prefetch([], depth=0)


def process_and_square(number: int) -> tuple[int, int]:
    return os.getpid(), number**2


def fail_at_two(number: int) -> int:
    if number == 2:
        raise ValueError("two")
    return number


def die(number: int) -> None:
    os._exit(9)


def wait_beside_a_file(path: Path) -> None:
    """Its file says that it is in the midst of the job."""
    path.touch()
    try:
        time.sleep(60)
    finally:
        path.unlink()


class TestMapInProcesses:
    def test_results_come_in_order_from_other_processes(self) -> None:
        found = list(map_in_processes(process_and_square, range(8), num_workers=2))
        assert [square for _, square in found] == [number**2 for number in range(8)]
        assert os.getpid() not in {process for process, _ in found}
        assert not multiprocessing.active_children()

    def test_error_of_a_job_comes_after_the_results_before_it(self) -> None:
        results = map_in_processes(fail_at_two, range(5), num_workers=1)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="two"):
            next(results)
        assert not multiprocessing.active_children()

    def test_a_worker_that_dies_is_reported(self) -> None:
        with pytest.raises(VideoTriggerError, match="a worker process died"):
            list(map_in_processes(die, [1], num_workers=1))

    def test_jobs_under_way_clean_up_when_nobody_waits_any_more(self, tmp_path: Path) -> None:
        paths = [tmp_path / str(number) for number in range(5)]
        results = map_in_processes(wait_beside_a_file, paths, num_workers=1)

        def interrupt_once_it_runs() -> None:
            while not paths[0].exists():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        watcher = threading.Thread(target=interrupt_once_it_runs)
        watcher.start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            next(results)
        watcher.join()
        assert time.monotonic() - start < 30
        assert not any(tmp_path.iterdir())
        assert not multiprocessing.active_children()

    def test_at_least_one_worker(self) -> None:
        with pytest.raises(ValueError, match="num_workers must be at least 1, got 0"):
            map_in_processes(process_and_square, [1], num_workers=0)
