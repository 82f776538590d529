"""Ctrl-C is answered at once, even while the main thread is busy outside the interpreter; a second one ends."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from raysearch.search.interruption import catch_interrupts


def test_interrupt_is_answered_while_main_thread_is_busy() -> None:
    answered: list[float] = []
    before = signal.getsignal(signal.SIGINT)
    with catch_interrupts(lambda: answered.append(time.monotonic()), lambda: None) as pressed:
        assert not pressed.is_set()
        lock = threading.Lock()
        lock.acquire()
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        lock.acquire(timeout=1.5)  # a wait that signals interrupt only to go on
        assert pressed.is_set()
    assert len(answered) == 1
    assert answered[0] - start < 0.6
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupts_in_another_thread_are_not_caught() -> None:
    events = []

    def run() -> None:
        with catch_interrupts(lambda: None, lambda: None) as pressed:
            events.append(pressed)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert [event.is_set() for event in events] == [False]


BUSY = """
import ctypes
from raysearch.search.interruption import catch_interrupts
with catch_interrupts(lambda: print("stopping", flush=True), lambda: print("left", flush=True)):
    print("ready", flush=True)
    while True:
        ctypes.CDLL(None).sleep(60)
"""


@pytest.mark.slow
def test_second_interrupt_leaves_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for answer in ("stopping\n", "left\n"):
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == answer
        assert process.wait(10) == 130
