"""`prefetch`: order, errors, bounds, and that no thread is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.executor import prefetch


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
