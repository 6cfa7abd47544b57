"""`StopSignal`: Ctrl-C and SIGTERM ask a long job to stop at its next safe place."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

logger = logging.getLogger(__name__)

WORKER_GRACE_SECONDS = 300
"""More than a step and a checkpoint take."""


class StopSignal:
    """A context manager; inside it the first signal is remembered, a second acts as usual.

    Attributes:
        received: The signal, or None so far.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    @property
    def exit_code(self) -> int:
        """What a shell reports for a command that the signal ended; 0 where none came."""
        return 0 if self.received is None else 128 + self.received.value

    def __enter__(self) -> Self:
        # Python delivers signals to the main thread alone, and lets only it install handlers.
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()
        logger.warning(
            "%s: finishing this step and saving; again to stop at once", self.received.name
        )

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()


def leave_signals_to_parent(worker: int = 0) -> None:
    """``worker_init_fn`` of a loader: signals go to every process, but are for the parent.

    Ctrl-C does, and so does the SIGTERM of torchrun, systemd and Slurm. A worker that obeyed at
    once would take the parent down before it has saved; it ends when the parent does.

    Args:
        worker: Its number, which the loader passes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # In place of the parent's `StopSignal`, which a forked worker inherits.
    signal.signal(signal.SIGTERM, _end_later)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _end_later(number: int, frame: FrameType | None) -> None:
    """Should the worker hang, so that its parent has to end it, it does not hang for good."""
    signal.alarm(WORKER_GRACE_SECONDS)
