"""Apache Kafka's jars: resolved once with Maven, kept outside of the checkout, used offline afterwards.

`python -m infra.jars` fetches them; its exit status is 1, with the reason, where Kafka cannot run.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

KAFKA_FILES = Path(__file__).parent / "kafka"
"""Where the pom and the templates of a broker's configuration are."""

JAVA_VERSION_MIN = 17

_MAVEN_DEADLINE_S = 600.0


class KafkaUnavailable(RuntimeError):
    """Apache Kafka cannot run on this machine; the message says why and what would help."""


def kafka_version() -> str:
    """The Apache Kafka version that the pom names."""
    version = ElementTree.parse(KAFKA_FILES / "pom.xml").findtext(".//{*}kafka.version")
    if version is None:
        raise KafkaUnavailable("infra/kafka/pom.xml names no kafka.version")
    return version


def java() -> str:
    """Path of a Java of version 17 or later: `$JAVA_HOME/bin/java`, else the one on the PATH.

    Raises:
        KafkaUnavailable: there is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    program = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if program is None:
        raise KafkaUnavailable(f"no Java {JAVA_VERSION_MIN} ({home or 'PATH'} has no java)")
    result = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', result.stderr + result.stdout)
    if found is None or int(found[1]) < JAVA_VERSION_MIN:
        raise KafkaUnavailable(f"Java {JAVA_VERSION_MIN} needed, {program} is {found[1] if found else 'unusable'}")
    return program


def cache_directory() -> Path:
    """Where this Kafka version's jars are kept: `$XDG_CACHE_HOME` or `~/.cache`, then `tidegate/kafka-<version>`."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "tidegate" / f"kafka-{kafka_version()}"


def class_path() -> str:
    """A Java class path with Kafka on it; the first call on a machine downloads about 45 MB with Maven.

    Raises:
        KafkaUnavailable: the jars are not there and Maven is missing or fails.
    """
    jars = cache_directory()
    if not jars.is_dir():
        _resolve(jars)
    return str(jars / "*")


def _resolve(jars: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaUnavailable("no Maven (mvn) to fetch Kafka's jars with")
    jars.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{jars.name}-", dir=jars.parent) as scratch:
        downloaded = Path(scratch) / "jars"
        command = [
            *(maven, "--batch-mode", "--quiet", "--file", str(KAFKA_FILES / "pom.xml")),
            *("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={downloaded}"),
        ]
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_MAVEN_DEADLINE_S)
        except subprocess.TimeoutExpired as error:
            raise KafkaUnavailable(f"Maven did not fetch Kafka's jars in {error.timeout:.0f} s") from error
        if result.returncode != 0:
            raise KafkaUnavailable(f"Maven could not fetch Kafka's jars: {(result.stdout + result.stderr)[-800:]}")
        try:
            # A directory appears whole or not at all, whoever else is resolving at the same time.
            downloaded.rename(jars)
        except OSError:
            if not jars.is_dir():
                raise


def main() -> None:
    """Fetch the jars, so that the first broker need not."""
    try:
        java()
        class_path()
    except KafkaUnavailable as why:
        sys.exit(f"setup: no Apache Kafka here: {why}")
    print(f"setup: Apache Kafka {kafka_version()} in {cache_directory()}")


if __name__ == "__main__":
    main()
