"""An event loop whose time is not that of the machine: it jumps to the next timer when nothing else is to be done."""

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any


class StandsStillError(Exception):
    """Every coroutine waits, and no timer will wake any of them."""


class JumpingSelector(selectors.BaseSelector):
    """A selector that does not sleep: it adds the time that it would have slept to a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self._files: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, fileobj if isinstance(fileobj, int) else fileobj.fileno(), events, data)
        self._files[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._files.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise StandsStillError
        self.now += max(0.0, timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._files


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop for coroutines that wait for each other and for timers, and for nothing outside of the process."""

    def __init__(self) -> None:
        self._jumping = JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Returns the virtual time in s; a new loop begins at 0."""
        return self._jumping.now
