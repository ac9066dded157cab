"""Days and weeks of an account, from its time zone and local day start (contract, section 2, *Day*).

A day runs from one local ``day_start`` to the next and may have 23 or 25 hours; a week starts on Monday at that
time. A local time inside a DST gap is read with the offset before the gap; in an overlap its first occurrence counts.
"""

from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

Bounds = tuple[int, int]

_DAY = timedelta(days=1)
_MILLISECOND = timedelta(milliseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=65_536)
def _boundary(zone: str, minutes: int, day: date) -> int:
    """When local ``day`` starts, in milliseconds since 1970."""
    local = datetime.combine(day, time(minutes // 60, minutes % 60), ZoneInfo(zone))
    return (local.astimezone(UTC) - _EPOCH) // _MILLISECOND


def _local_day(zone: str, minutes: int, at_ms: int) -> date:
    """The local day whose [start, next start) holds the instant."""
    day = datetime.fromtimestamp(at_ms // 1000, UTC).astimezone(ZoneInfo(zone)).date()
    while _boundary(zone, minutes, day) > at_ms:
        day -= _DAY
    while _boundary(zone, minutes, day + _DAY) <= at_ms:
        day += _DAY
    return day


def day_of(zone: str, minutes: int, at_ms: int) -> Bounds:
    """[start, end) of the day that holds the instant, in milliseconds."""
    day = _local_day(zone, minutes, at_ms)
    return _boundary(zone, minutes, day), _boundary(zone, minutes, day + _DAY)


def week_of(zone: str, minutes: int, at_ms: int) -> Bounds:
    """[start, end) of the week that holds the instant, in milliseconds."""
    day = _local_day(zone, minutes, at_ms)
    monday = day - timedelta(days=day.weekday())
    return _boundary(zone, minutes, monday), _boundary(zone, minutes, monday + 7 * _DAY)
