"""`prefetch`: the only thread of an offline run; video is decoded while the model works."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")

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
