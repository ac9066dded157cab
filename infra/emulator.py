"""The broker for machines without Java: noida-db, a pip-installed program that speaks the Kafka protocol.

It is an emulator, good enough for a demo and never for a claim: it creates topics by itself with one partition,
never evicts a dead member of a consumer group, and answers an empty fetch at once.
"""

import importlib.util
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from infra.child import Child
from infra.cluster import HOST, BrokerFailed, brokers_seen_by, free_ports

_READY_DEADLINE_S = 30.0


def installed() -> bool:
    """Whether the extra `emulator` is installed beside this interpreter."""
    return importlib.util.find_spec("noida_db") is not None


def emulator_version() -> str:
    """Version of the installed emulator."""
    return version("noida-db")


@contextmanager
def emulator() -> Iterator[str]:
    """Run the emulator; yields its bootstrap address.

    Raises:
        BrokerFailed: it did not answer in time; the message ends with the tail of its log.
    """
    directory = Path(tempfile.mkdtemp(prefix="tidegate-emulator-"))
    bootstrap = f"{HOST}:{free_ports(1)[0]}"
    process: Child | None = None
    try:
        process = Child(_command(bootstrap, directory), log=directory / "emulator.log", scratch=directory)
        deadline_s = time.monotonic() + _READY_DEADLINE_S
        while not brokers_seen_by(bootstrap):
            if not process.running or time.monotonic() > deadline_s:
                raise BrokerFailed(f"the emulator did not start; its log:\n{process.log_tail()}")
            time.sleep(0.02)
        yield bootstrap
    finally:
        if process is not None:
            process.kill()
        shutil.rmtree(directory, ignore_errors=True)


def _command(bootstrap: str, directory: Path) -> list[str]:
    # The package's console script only waits for this program, and would leave it behind when killed.
    program = Path(str(files("noida_db") / "noida-db"))
    program.chmod(0o755)
    port = bootstrap.rpartition(":")[2]
    return [
        *(str(program), "start", "--only", "kafka"),
        *("--host", HOST, "--kafka-port", port, "--data-dir", str(directory / "data")),
    ]
