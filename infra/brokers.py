"""Which broker to run on, and running it.

    with broker() as b:
        print(b.url)  # kafka://127.0.0.1:21734

`TIDEGATE_BROKER=kafka://host:port[,host:port]` always wins. Without it a throw-away broker is started: Apache
Kafka where Java 17 and its jars (or Maven, to fetch them) are, else the pip-installed emulator. The choice and
its reason go to standard error in one line.

`python -m infra.brokers` runs one in the foreground until Ctrl-C.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from infra.cluster import BrokerFailed, KafkaCluster, PortTaken, brokers_seen_by, free_ports
from infra.emulator import emulator, emulator_version
from infra.emulator import installed as emulator_installed
from infra.jars import KafkaUnavailable, class_path, java, kafka_version

__all__ = [
    "BROKER_VARIABLE",
    "Broker",
    "BrokerFailed",
    "KafkaCluster",
    "KafkaUnavailable",
    "PortTaken",
    "bootstrap_from_url",
    "broker",
    "brokers_seen_by",
    "external_broker",
    "free_ports",
]

BROKER_VARIABLE = "TIDEGATE_BROKER"


@dataclass(frozen=True)
class Broker:
    """A broker that clients can connect to."""

    bootstrap: str
    """Addresses for a client's `bootstrap_servers`: "host:port[,host:port]"."""
    kind: Literal["kafka", "emulator", "external"]
    detail: str
    """What it is and why it was chosen, in a few words."""

    @property
    def url(self) -> str:
        """The address in the form of `TIDEGATE_BROKER`."""
        return f"kafka://{self.bootstrap}"


def bootstrap_from_url(url: str) -> str:
    """Addresses for a client: "a:1,b:2" from "kafka://a:1,b:2".

    Raises:
        ValueError: the url is not of that form.
    """
    scheme, _, addresses = url.partition("://")
    for address in addresses.split(","):
        host, _, port = address.rpartition(":")
        if scheme != "kafka" or not host or not port.isdigit():
            raise ValueError(f"{BROKER_VARIABLE} must look like kafka://host:port[,host:port], not {url!r}")
    return addresses


def external_broker() -> Broker | None:
    """The broker that the environment names, if it does.

    Raises:
        ValueError: `TIDEGATE_BROKER` is not of the form kafka://host:port[,host:port].
    """
    url = os.environ.get(BROKER_VARIABLE)
    return Broker(bootstrap_from_url(url), "external", f"named by {BROKER_VARIABLE}") if url else None


@contextmanager
def broker() -> Iterator[Broker]:
    """Choose a broker, start it where that is needed, and stop it at the end.

    Raises:
        ValueError: `TIDEGATE_BROKER` is not of the form kafka://host:port[,host:port].
        KafkaUnavailable: neither Apache Kafka nor the emulator can run here; the message says what would help.
        BrokerFailed: the chosen broker did not start.
    """
    external = external_broker()
    if external is not None:
        yield _announced(external)
        return
    try:
        # Only what Kafka needs is in question here: a Kafka that fails to start is an error to see, and not a
        # reason for the emulator.
        java()
        class_path()
    except KafkaUnavailable as why:
        if not emulator_installed():
            raise KafkaUnavailable(
                f"{why}. Install Java 17 and Maven, or the emulator (pip install 'tidegate[emulator]'), "
                f"or name a broker: {BROKER_VARIABLE}=kafka://host:port"
            ) from why
        with emulator() as bootstrap:
            yield _announced(Broker(bootstrap, "emulator", f"emulator noida-db {emulator_version()}: {why}"))
        return
    with KafkaCluster() as cluster:
        yield _announced(Broker(cluster.bootstrap, "kafka", f"Apache Kafka {kafka_version()}, Java and jars are here"))


def _announced(chosen: Broker) -> Broker:
    print(f"broker: {chosen.url} ({chosen.detail})", file=sys.stderr, flush=True)
    return chosen


def main() -> None:
    """Run a broker in the foreground until Ctrl-C or SIGTERM; its url is the only line on standard output."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with broker() as running:
            print(running.url, flush=True)
            signal.pause()
    except KeyboardInterrupt:
        pass
    except (ValueError, KafkaUnavailable, BrokerFailed) as error:
        sys.exit(f"broker: {error}")


if __name__ == "__main__":
    main()
