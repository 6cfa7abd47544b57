"""Threads and processes of offline work.

`prefetch` is the only thread of an offline run: video is decoded while the model works.
`map_in_processes` does independent jobs on all cores.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import Generic, NoReturn, TypeVar

from utils.errors import VideoTriggerError

Item = TypeVar("Item")
Job = TypeVar("Job")
Result = TypeVar("Result")

_POLL_SECONDS = 0.05


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Ended:
    pass


class _Producer(Generic[Item]):
    """Runs an iterable in a thread into a bounded queue."""

    def __init__(self, items: Iterable[Item], depth: int) -> None:
        self._items = items
        self._queue: queue.Queue[Item | _Failed | _Ended] = queue.Queue(depth)
        self._is_cancelled = threading.Event()
        # A daemon, so that a decoder that hangs cannot keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def get(self) -> Item | _Failed | _Ended:
        return self._queue.get()

    def stop(self) -> None:
        self._is_cancelled.set()
        self._thread.join()

    def _run(self) -> None:
        last: _Failed | _Ended = _Ended()
        try:
            self._produce()
        except BaseException as error:  # Raised again where the items are consumed.
            last = _Failed(error)
        self._put(last)

    def _produce(self) -> None:
        iterator = iter(self._items)
        try:
            for item in iterator:
                if not self._put(item):
                    break
        finally:
            # Here and not in the consumer: a generator is closed by the thread that runs it.
            if isinstance(iterator, Generator):
                iterator.close()

    def _put(self, item: Item | _Failed | _Ended) -> bool:
        """Wait for room; False where nobody wants more."""
        while not self._is_cancelled.is_set():
            try:
                self._queue.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False


def prefetch(items: Iterable[Item], *, depth: int) -> Generator[Item]:
    """The items in order, made up to ``depth`` ahead in a thread of their own.

    An exception of the iterable comes out after the items before it. When the generator is closed
    or has ended, the thread is gone and the iterable is closed.

    Args:
        items: Iterated in the thread alone.
        depth: Items that wait at most; at least 1.

    Raises:
        ValueError: ``depth`` is below 1; a queue without bound would hold the whole video.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    return _consume(items, depth)


def _consume(items: Iterable[Item], depth: int) -> Generator[Item]:
    # In here: a generator that is never started has no thread to stop.
    producer = _Producer(items, depth)
    try:
        while True:
            item = producer.get()
            if isinstance(item, _Ended):
                return
            if isinstance(item, _Failed):
                raise item.error
            yield item
    finally:
        producer.stop()


def map_in_processes(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, num_workers: int
) -> Iterator[Result]:
    """``function`` of each job, several at once; results come in the order of the jobs.

    If a job raises, or the caller loses interest, the workers are stopped before this returns, each
    through its own ``finally``.

    Args:
        function: Of a module's top level, so that another process finds it.
        jobs: Can be pickled.
        num_workers: Processes, at least 1.

    Raises:
        ValueError: ``num_workers`` is below 1.
        VideoTriggerError: A worker died, such as for want of memory.
    """
    if num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}")
    return _map_in_processes(function, jobs, num_workers)


def _map_in_processes(
    function: Callable[[Job], Result], jobs: Sequence[Job], num_workers: int
) -> Generator[Result]:
    before = set(multiprocessing.active_children())
    # Spawned: a fork of a process with threads (torch, a progress bar) can deadlock.
    executor = concurrent.futures.ProcessPoolExecutor(
        num_workers, multiprocessing.get_context("spawn"), initializer=_end_on_sigterm
    )
    try:
        for future in [executor.submit(_do, function, job) for job in jobs]:
            yield future.result()
    except BrokenProcessPool as error:
        raise VideoTriggerError(
            "a worker process died (out of memory?); take fewer workers"
        ) from error
    except BaseException:
        # Whoever is in the midst of a job would finish it first.
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


_is_ended = False
"""In a worker: whether the parent has ended it."""


def _end_on_sigterm() -> None:
    """In a worker: the parent's SIGTERM unwinds the job; Ctrl-C is for the parent alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    global _is_ended
    _is_ended = True
    raise SystemExit(128 + number)


def _do(function: Callable[[Job], Result], job: Job) -> Result:
    # The executor takes SystemExit for the job's own and would go on with what is queued.
    if _is_ended:
        raise SystemExit
    return function(job)
