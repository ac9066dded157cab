"""The wall clock, as records carry it: whole milliseconds since 1970.

The core never asks for the time; it is handed what is read here.
"""

import time


def now_ms() -> int:
    """Now, in milliseconds since 1970. Not steady: a clock that is set goes back, too."""
    return time.time_ns() // 1_000_000
