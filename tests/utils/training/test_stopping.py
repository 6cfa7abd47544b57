"""`StopSignal`: the first signal is remembered, the second acts, and all is put back."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading

import pytest

from utils.training.stopping import StopSignal, leave_signals_to_parent


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_first_signal_is_remembered(
    number: signal.Signals, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert (stop.received, stop.exit_code) == (None, 0)
        with caplog.at_level(logging.WARNING):
            os.kill(os.getpid(), number)
        assert stop.received is number
        assert stop.exit_code == code
        assert f"{number.name}: finishing this step and saving; again to stop" in caplog.text
    assert signal.getsignal(number) is before


def test_second_signal_acts_as_usual() -> None:
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received is signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    inside: list[object] = []

    def work() -> None:
        with StopSignal():
            inside.append(signal.getsignal(signal.SIGTERM))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert inside != [before]
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_may_use_it() -> None:
    before = signal.getsignal(signal.SIGINT)
    codes: list[int] = []

    def work() -> None:
        with StopSignal() as stop:
            codes.append(stop.exit_code)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert codes == [0]
    assert signal.getsignal(signal.SIGINT) is before


def test_workers_leave_signals_to_the_parent_and_end_later() -> None:
    assert callable(leave_signals_to_parent)
    script = (
        "import os, signal, time\n"
        "from utils.training import stopping\n"
        "stopping.WORKER_GRACE_SECONDS = 1\n"
        "with stopping.StopSignal():\n"
        "    stopping.leave_signals_to_parent(0)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('alive', flush=True)\n"
        "    time.sleep(20)\n"
        "    print('deaf')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["alive"]
    assert done.returncode == -signal.SIGALRM
