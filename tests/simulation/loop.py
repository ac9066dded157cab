"""An event loop whose time is simulated, and processes on it that freeze and die as the kernel has them do.

Nobody ever waits: when nothing is left to run, the clock goes on to the next timer. Handles run in the order in which
they were scheduled, as in any loop of asyncio; what a seed varies is how long things take.
"""

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Process:
    """All tasks that were started by one of its tasks. Those that it spawns are the first."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_frozen = False
        self.is_dead = False
        self.tasks: dict[asyncio.Task[Any], None] = {}
        """Those that have not ended, oldest first; some of them may have just now."""
        self.frozen_s = 0.0
        """How long it has been frozen up to now, all in all, s."""
        self._frozen_at_s = 0.0
        self._held: list[asyncio.Handle] = []

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something in this process."""
        context = copy_context()
        context.run(_PROCESS.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    def freeze(self) -> None:
        """As by SIGSTOP: nothing of it runs; what it has sent to others takes its course."""
        if not self.is_frozen:
            self.is_frozen = True
            self._frozen_at_s = _loop().time()

    def thaw(self) -> None:
        """As by SIGCONT: all that came due meanwhile runs now."""
        if not self.is_frozen:
            return
        self.is_frozen = False
        self.frozen_s += _loop().time() - self._frozen_at_s
        held, self._held = self._held, []
        for handle in held:
            _loop().take_up(self, handle)

    async def kill(self) -> None:
        """As by SIGKILL: nothing that it still does reaches the world (see ``Delays``)."""
        self.is_dead = True
        self.thaw()
        while tasks := list(self.tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=1)

    def running(self) -> list[str]:
        """The names of its tasks that have not ended, but for the one that asks."""
        return sorted(task.get_name() for task in self.tasks if not task.done() and task is not asyncio.current_task())

    def hold(self, handle: asyncio.Handle) -> None:
        """Keep a handle that came due while it is frozen."""
        self._held.append(handle)

    def count(self, task: asyncio.Task[Any]) -> None:
        """Take note of a task of its own until that ends."""
        self.tasks[task] = None
        task.add_done_callback(lambda ended: self.tasks.pop(ended, None))


_PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class SimulatedLoop(asyncio.BaseEventLoop):
    """Runs until its main task ends. Raises RuntimeError when nothing is left that could ever happen."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._soon: deque[tuple[Process | None, asyncio.Handle]] = deque()
        self._later: list[tuple[float, int, Process | None, asyncio.TimerHandle]] = []
        self._counter = itertools.count()

    def time(self) -> float:
        return self._now_s

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        context = context or copy_context()
        handle = asyncio.Handle(callback, args, self, context)
        self._soon.append((context.get(_PROCESS), handle))
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        context = context or copy_context()
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._later, (when, next(self._counter), context.get(_PROCESS), timer))
        return timer

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = super().create_task(coro, name=name, context=context)
        if process := (context or copy_context()).get(_PROCESS):
            process.count(task)
        return task

    def take_up(self, process: Process, handle: asyncio.Handle) -> None:
        """Run a handle that ``process`` held back."""
        self._soon.append((process, handle))

    def _run_once(self) -> None:
        """One turn, called by ``run_forever``."""
        while self._later and self._later[0][-1].cancelled():
            heapq.heappop(self._later)
        if not self._soon:
            if not self._later:
                raise RuntimeError("everybody waits, and for nothing that could happen")
            self._now_s = max(self._now_s, self._later[0][0])
        while self._later and self._later[0][0] <= self._now_s:
            _, _, process, timer = heapq.heappop(self._later)
            self._soon.append((process, timer))
        for _ in range(len(self._soon)):
            process, handle = self._soon.popleft()
            if handle.cancelled():
                continue
            if process is not None and process.is_frozen:
                process.hold(handle)
            else:
                handle._run()


def _loop() -> SimulatedLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimulatedLoop)
    return loop
