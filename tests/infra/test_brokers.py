"""Which broker is chosen, and what is said about it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra import emulator, jars
from infra.brokers import BROKER_VARIABLE, KafkaUnavailable, bootstrap_from_url, broker
from infra.brokers import brokers_seen_by as seen
from tests.integration.support import create_topic, poll, produce, read_topic, require_local_kafka


@pytest.fixture(autouse=True)
def _no_broker_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BROKER_VARIABLE, raising=False)


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_named_broker_always_wins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_java: None
) -> None:
    monkeypatch.setenv(BROKER_VARIABLE, "kafka://one.example:9092,two.example:9093")
    with broker() as chosen:
        assert chosen.kind == "external"
        assert chosen.bootstrap == "one.example:9092,two.example:9093"
        assert chosen.url == "kafka://one.example:9092,two.example:9093"
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert BROKER_VARIABLE in printed.err


@pytest.mark.parametrize(
    "url", ["one:9092", "http://one:9092", "kafka://", "kafka://one", "kafka://one:x", "kafka://:9092", "kafka://a:1,"]
)
def test_a_url_of_another_form_is_refused_by_name(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"kafka://host:port"):
        bootstrap_from_url(url)
    monkeypatch.setenv(BROKER_VARIABLE, url)
    with pytest.raises(ValueError, match=BROKER_VARIABLE), broker():
        pass


@pytest.mark.integration
def test_apache_kafka_comes_next(capsys: pytest.CaptureFixture[str]) -> None:
    require_local_kafka()
    with broker() as chosen:
        assert chosen.kind == "kafka"
        assert seen(chosen.bootstrap)
        assert f"Apache Kafka {jars.kafka_version()}" in capsys.readouterr().err
    assert not seen(chosen.bootstrap)


@pytest.mark.integration
async def test_the_emulator_stands_in_without_java(no_java: None, capsys: pytest.CaptureFixture[str]) -> None:
    if not emulator.installed():
        pytest.skip("the extra `emulator` (noida-db) is not installed")
    with broker() as chosen:
        assert chosen.kind == "emulator"
        assert "no Java" in capsys.readouterr().err
        await create_topic(chosen.bootstrap, "signals", partitions=4)
        await produce(chosen.bootstrap, "signals", [(b"account", b"{}")])
        assert [record.key for record in await read_topic(chosen.bootstrap, "signals")] == [b"account"]
    assert not seen(chosen.bootstrap)


def test_without_any_broker_the_remedies_are_named(no_java: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.brokers.emulator_installed", lambda: False)
    with pytest.raises(KafkaUnavailable, match=rf"no Java 17.*Maven.*emulator.*{BROKER_VARIABLE}"), broker():
        pass


@pytest.mark.integration
def test_a_broker_in_the_foreground_prints_its_url_and_ends_on_ctrl_c() -> None:
    require_local_kafka()
    with subprocess.Popen(
        [sys.executable, "-m", "infra.brokers"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background may have it ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no other thread runs here
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, process.communicate(timeout=30)[1]
        bootstrap = bootstrap_from_url(url)
        assert seen(bootstrap)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert rest == ""
    assert errors.startswith("broker: kafka://127.0.0.1:")
    poll(lambda: not seen(bootstrap), 10, "the broker's port to close")


def _java_that_says(directory: Path, version_line: str) -> None:
    program = directory / "java"
    program.write_text(f"#!/bin/sh\necho '{version_line}' >&2\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("line", "usable"),
    [
        ('openjdk version "17.0.15" 2025-04-15', True),
        ('openjdk version "25" 2025-09-16', True),
        ('java version "11.0.2" 2019-01-15 LTS', False),
        ('java version "1.8.0_202"', False),
        ("not a java", False),
    ],
)
def test_java_is_17_or_later(line: str, usable: bool, tmp_path: Path, no_java: None) -> None:
    _java_that_says(tmp_path, line)
    if usable:
        assert jars.java() == str(tmp_path / "java")
    else:
        with pytest.raises(KafkaUnavailable, match="Java 17 needed"):
            jars.java()


def test_java_home_comes_before_the_path(tmp_path: Path, no_java: None, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "jdk"
    (home / "bin").mkdir(parents=True)
    _java_that_says(home / "bin", 'openjdk version "21.0.1"')
    _java_that_says(tmp_path, 'openjdk version "17.0.1"')
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert jars.java() == str(home / "bin" / "java")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, and a Maven in the PATH to be written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "cache" / "tidegate" / f"kafka-{jars.kafka_version()}"


def _maven(directory: Path, script: str) -> None:
    program = directory / "mvn"
    program.write_text(
        f"#!/bin/sh\nfor word; do case $word in -DoutputDirectory=*) out=${{word#*=}};; esac; done\n{script}\n"
    )
    program.chmod(0o755)


def test_jars_are_fetched_once_and_then_used_offline(tmp_path: Path, cache: Path) -> None:
    _maven(tmp_path, f'mkdir -p "$out" && touch "$out/kafka.jar" && echo run >> {tmp_path}/runs')
    assert jars.class_path() == str(cache / "*")
    assert [jar.name for jar in cache.iterdir()] == ["kafka.jar"]
    assert jars.class_path() == str(cache / "*")
    assert (tmp_path / "runs").read_text() == "run\n"
    assert [entry.name for entry in cache.parent.iterdir()] == [cache.name]


def test_a_fetch_that_loses_the_race_uses_the_winners_jars(tmp_path: Path, cache: Path) -> None:
    _maven(tmp_path, f'mkdir -p "$out" {cache} && touch "$out/kafka.jar" {cache}/winner.jar')
    assert jars.class_path() == str(cache / "*")
    assert [jar.name for jar in cache.iterdir()] == ["winner.jar"]


def test_a_fetch_that_fails_leaves_no_half_cache_and_says_why(tmp_path: Path, cache: Path) -> None:
    _maven(tmp_path, 'mkdir -p "$out" && touch "$out/half.jar" && echo "could not resolve" && exit 1')
    with pytest.raises(KafkaUnavailable, match="could not resolve"):
        jars.class_path()
    assert not list(cache.parent.iterdir())


def test_without_maven_and_jars_there_is_no_kafka(cache: Path, no_java: None) -> None:
    with pytest.raises(KafkaUnavailable, match="no Maven"):
        jars.class_path()
