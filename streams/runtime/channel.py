"""A channel that a rebalance of Faust's own consumer cannot touch.

An ``app.channel()`` shares the app's flow control: a rebalance clears its queue and cancels those who wait to put, and
a batch would vanish without a trace. Here one private queue, never suspended, serves all clones; each item is got by
one of the agent's actors.
"""

from typing import TypeVar

from faust import Channel
from faust.types import AppT
from mode.utils.queues import FlowControlEvent, ThrowableQueue

T = TypeVar("T")


class PrivateChannel(Channel[T]):
    """For agents that are fed by a reader of our own."""

    def __init__(self, app: AppT, *, queue: ThrowableQueue | None = None, **options: object) -> None:
        if queue is None:
            queue = ThrowableQueue(flow_control=FlowControlEvent(initially_suspended=False))
        super().__init__(app, queue=queue, **options)

    def _clone_args(self) -> dict[str, object]:
        return {**super()._clone_args(), "queue": self.queue}

    async def put(self, value: T) -> None:
        """Hand one item to the agent."""
        await self.queue.put(value)
