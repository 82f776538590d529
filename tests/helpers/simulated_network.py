"""Simulated messages to an actor: late, lost and sent again, or delivered twice."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

SOON, LATE = (0.001, 0.05), (1.0, 90.0)  # s that a message takes; the late ones outlast the broker's own deadlines
RESEND = 2.0  # s after which a message without an answer is sent again


class ActorDiedError(Exception):
    """The actor, or the whole cluster, is gone: no answer will come."""


@dataclass
class Disorder:
    """How often things go wrong; all 0 is an orderly network and workers that live for ever."""

    late: float = 0.0  # share of messages
    repeated: float = 0.0
    lost: float = 0.0
    rank_life: float = 0.0  # mean s until a rank of a worker group is killed; 0: never
    controller_life: float = 0.0  # mean s until the controller of a worker group is killed


class Network:
    """The way to one actor, whose methods are coroutines. It goes with the session that the actor belongs to."""

    def __init__(self, chance: random.Random, disorder: Disorder) -> None:
        self.chance, self.disorder, self.is_down = chance, disorder, False
        self._running: list[asyncio.Task[Any]] = []  # methods of the actor, which do not end with their callers

    async def call(self, method: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Returns the actor's answer to a message, which arrives at least once."""
        while True:
            await self._travel()
            if self.chance.random() < self.disorder.repeated:
                self._spawn(self._repeat(method, arguments))
            if self.chance.random() < self.disorder.lost:
                await asyncio.sleep(RESEND)
                continue
            answer = await self._deliver(method, arguments)
            if self.chance.random() < self.disorder.lost:
                await asyncio.sleep(RESEND)
                continue
            await self._travel()
            return answer

    def send(self, method: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
        """Sends a message whose answer nobody waits for."""
        self._spawn(self._send(method, arguments))

    def take_down(self) -> None:
        """Ends the actor with all that it is doing, and every call that waits for it."""
        self.is_down = True
        for task in self._running:
            task.cancel()

    async def _deliver(self, method: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> Any:
        task = self._spawn(method(*arguments))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self.is_down and task.cancelled():
                raise ActorDiedError from None
            raise

    async def _repeat(self, method: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> None:
        await self._travel()
        await method(*arguments)

    async def _send(self, method: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> None:
        try:
            await self.call(method, *arguments)
        except ActorDiedError:
            return

    async def _travel(self) -> None:
        bounds = LATE if self.chance.random() < self.disorder.late else SOON
        await asyncio.sleep(self.chance.uniform(*bounds))
        if self.is_down:
            raise ActorDiedError

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        if len(self._running) > 200:
            self._running = [task for task in self._running if not task.done()]
        task = asyncio.ensure_future(coroutine)
        self._running.append(task)
        return task
