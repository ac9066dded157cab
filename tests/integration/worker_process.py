"""Runs one worker, for tests that kill it: ``python -m tests.integration.worker_process SETTINGS RULES CORE``.

SETTINGS are ``Settings`` as JSON, RULES a configuration as JSON, CORE is ``real`` or ``standin``.
"""

import json
import sys
from pathlib import Path

from schemas.config import ConfigFile
from streams.core.rules import rules_of
from streams.runtime.logs import configure_logging
from streams.runtime.settings import Settings
from streams.runtime.worker import run_worker
from tests.integration import standin


def main(settings_json: str, rules_json: str, core: str) -> int:
    configure_logging()
    values = json.loads(settings_json)
    settings = Settings(**values | {"data_dir": Path(values["data_dir"])})
    rules = rules_of(ConfigFile.model_validate(json.loads(rules_json)))
    return run_worker(settings, rules, core=standin.CORE if core == "standin" else None)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
