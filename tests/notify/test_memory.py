"""What a notifier remembers of what is on its way, and for how long."""

from streams.notify.memory import Memory
from streams.runtime.settings import Settings
from streams.runtime.topics import NOTIFICATIONS_RETENTION_MS
from tests.notify.records import locked_message


def test_a_fact_is_known_on_its_route_until_no_repeat_of_it_can_come() -> None:
    memory = Memory(Settings(broker="kafka://127.0.0.1:1"))
    first, second = locked_message("first"), locked_message("second")

    memory.take("desk", first, 0)
    assert memory.knows("desk", first)
    assert not memory.knows("pager", first)

    memory.take("desk", second, NOTIFICATIONS_RETENTION_MS)
    assert memory.knows("desk", first)
    memory.take("pager", second, NOTIFICATIONS_RETENTION_MS + 1)
    assert not memory.knows("desk", first)
    assert memory.knows("desk", second)
    assert memory.knows("pager", second)
