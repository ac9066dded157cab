"""What every test shares: a seed, and a failure that says how to see it again."""

import os
import random
import shlex
from collections.abc import Generator

import pytest
from hypothesis import settings

# On a loaded machine a slow example is no failure; a failing one comes with the line that reproduces it.
settings.register_profile("tidegate", deadline=None, print_blob=True)
settings.load_profile("tidegate")

SEED_VARIABLE = "TIDEGATE_TEST_SEED"
_SEED = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(2**32))


def pytest_report_header() -> str:
    return f"{SEED_VARIABLE}={_SEED}"


@pytest.fixture
def seed() -> int:
    """Whatever a test draws at random, it draws from this; `TIDEGATE_TEST_SEED` sets it."""
    return _SEED


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        again = f"{SEED_VARIABLE}={_SEED} {reproducing_command(item.nodeid)}"
        report.sections.append(("To see this failure again", again))
    return report


def reproducing_command(node_id: str) -> str:
    """The command line that runs one test."""
    return f".venv/bin/python -m pytest {shlex.quote(node_id)}"
