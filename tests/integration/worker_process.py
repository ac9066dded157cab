"""Runs one worker, for tests that kill it: ``python -m tests.integration.worker_process SETTINGS RULES CORE``.

SETTINGS are ``Settings`` as JSON, RULES a configuration as JSON, CORE is ``real``, ``standin``, or ``earlier``: the
stand-in, in a worker that shares out partitions by range as the first release did.
"""

import json
import sys
from pathlib import Path

from aiokafka.coordinator.assignors.range import RangePartitionAssignor

from schemas.config import ConfigFile
from streams.core.rules import rules_of
from streams.runtime import worker
from streams.runtime.logs import configure_logging
from streams.runtime.settings import Settings
from tests.integration import standin


def main(settings_json: str, rules_json: str, core: str) -> int:
    configure_logging()
    values = json.loads(settings_json)
    settings = Settings(**values | {"data_dir": Path(values["data_dir"])})
    rules = rules_of(ConfigFile.model_validate(json.loads(rules_json)))
    if core == "earlier":
        setattr(worker, "WorkerAssignor", EarlierAssignor)  # noqa: B010 - it is no export of that module
    return worker.run_worker(settings, rules, core=None if core == "real" else standin.CORE)


class EarlierAssignor(RangePartitionAssignor):
    """Tells nothing, hears nothing."""

    standing_by: frozenset[int] = frozenset()

    def __init__(self, _holding: object) -> None: ...


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
