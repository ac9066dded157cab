"""The Kafka Streams peer: built once with Maven, outside of the checkout."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from infra.jars import cache_directory, java, kafka_version
from tests.benchmarks.peers.setup import Setup

_PROJECT = Path(__file__).parent / "peers" / "kafka_streams"
_MAIN = "tidegate.bench.ReducedGate"
# A heap as a stream thread's guide has it; the collector is the JVM's own choice for one core.
_JVM_OPTIONS = ("-Xms256m", "-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
_DEADLINE_S = 600.0


class JavaUnavailable(RuntimeError):
    """The peer cannot be built here; the message says why."""


def command(setup: Setup) -> list[str]:
    """The command line that runs it. Raises JavaUnavailable, or infra's KafkaUnavailable without a Java."""
    built = _built()
    class_path = f"{built / 'classes'}:{built / 'jars'}/*"
    arguments = (setup.bootstrap, setup.prefix, setup.directory, str(setup.partitions))
    return [java(), *_JVM_OPTIONS, "-cp", class_path, _MAIN, *arguments]


def _built() -> Path:
    """Where classes and jars are; the first call with these sources compiles them."""
    sources = sorted(file for file in _PROJECT.rglob("*") if file.is_file())
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()[:12]
    built = cache_directory().with_name(f"bench-kafka-streams-{kafka_version()}-{digest}")
    if not built.is_dir():
        _build(built)
    return built


def _build(built: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise JavaUnavailable("no Maven (mvn) to build the Kafka Streams peer with")
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=built.parent) as scratch:
        output = Path(scratch) / "target"
        options = (f"-Dkafka.version={kafka_version()}", f"-Doutput={output}", f"-DoutputDirectory={output / 'jars'}")
        goals = ("compile", "dependency:copy-dependencies", "-DincludeScope=runtime")
        result = subprocess.run(
            [maven, "--batch-mode", "--quiet", "--file", str(_PROJECT / "pom.xml"), *options, *goals],
            capture_output=True,
            text=True,
            check=False,
            timeout=_DEADLINE_S,
        )
        if result.returncode != 0:
            raise JavaUnavailable(f"Maven could not build the Kafka Streams peer: {result.stdout[-2_000:]}")
        output.rename(built)
