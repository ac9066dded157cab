"""The worker's log: one line per event on standard error, ours from INFO, the libraries' from WARNING."""

import logging
import time

_FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s %(message)s"
_LIBRARIES = ("aiokafka", "asyncio", "faust", "mode")


def configure_logging(level: int = logging.INFO) -> None:
    """Set up the root logger, with times in UTC. aiokafka and Faust log every client at INFO: dozens per partition."""
    formatter = logging.Formatter(_FORMAT, "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
