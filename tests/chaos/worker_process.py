"""One worker, started by the chaos run: ``python -m tests.chaos.worker_process SETTINGS CONFIG PARENT``.

The worker itself is what ``tidegate worker`` runs. SETTINGS are ``Settings`` as JSON (some timeouts are shorter than
the environment can set them), CONFIG is a ``tidegate.toml``, PARENT the process to die with. Its log goes to a pipe, so
that a limit on the size of its files strikes only its database.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from streams.config import load_rules
from streams.runtime.logs import configure_logging
from streams.runtime.settings import Settings
from streams.runtime.worker import run_worker

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone, for whatever reason and also while it is stopped."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main(settings_json: str, config: str, parent: str) -> int:
    die_with(int(parent))
    configure_logging()
    values = json.loads(settings_json)
    settings = Settings(**values | {"data_dir": Path(values["data_dir"])})
    return run_worker(settings, load_rules(Path(config), {}))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
