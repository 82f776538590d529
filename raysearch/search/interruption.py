"""Ctrl-C: the first one is answered at once and ends the search in order, the second one leaves at once.

Python calls a signal's handler in the main thread, which may be in Ray's or torch's code for seconds. The interpreter
writes the signal's number to a file descriptor at once, though, and a thread waits there.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 130


@contextmanager
def catch_interrupts(answer: Callable[[], None], leave: Callable[[], None]) -> Iterator[threading.Event]:
    """Yields an event that the first Ctrl-C sets; `answer` is called at once then, in another thread.

    After the second Ctrl-C `leave` is called and the process ends. Signals reach the main thread alone: in another
    thread the event is never set.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def watch() -> None:
        count = 0
        while numbers := receiver.recv(16):  # ends when the sender is closed
            for _ in range(numbers.count(signal.SIGINT)):
                count += 1
                pressed.set()
                if count > 1:
                    leave()
                    os._exit(EXIT_CODE)
                answer()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        pressed.set()

    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    watcher = threading.Thread(target=watch, name="interrupts", daemon=True)
    handler = signal.signal(signal.SIGINT, on_signal)
    descriptor = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    watcher.start()
    try:
        yield pressed
    finally:
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGINT, handler)
        sender.close()
        watcher.join()
        receiver.close()
