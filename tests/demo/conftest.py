"""Two runs without a broker, shared by the tests that only look at them."""

import pytest

from streams.demo.desk import Desk
from tests.demo.inprocess import InProcessGate, play

TWO_DAYS = 48
MONTH = 744


@pytest.fixture(scope="session")
def two_days() -> tuple[Desk, InProcessGate]:
    return play(TWO_DAYS)


@pytest.fixture(scope="session")
def month() -> tuple[Desk, InProcessGate]:
    return play(MONTH)
