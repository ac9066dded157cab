"""Settings from the environment: what is wrong is named, what is secret is not."""

import ssl
from pathlib import Path

import pytest

from streams.runtime import kafka
from streams.runtime.settings import Security, Settings, SettingsError

BROKER = {"TIDEGATE_BROKER": "kafka://one:9092,two:9093"}
SECRET = "hunter2-hunter2"


def test_defaults_need_a_broker_only() -> None:
    settings = Settings.from_environment(BROKER)
    assert settings.bootstrap == "one:9092,two:9093"
    assert (settings.app_id, settings.topic_prefix, settings.security.protocol) == ("tidegate", "", "PLAINTEXT")


def test_everything_can_be_set() -> None:
    settings = Settings.from_environment(
        BROKER
        | {
            "TIDEGATE_APP_ID": "desk",
            "TIDEGATE_TOPIC_PREFIX": "test.",
            "TIDEGATE_DATA_DIR": "/var/lib/gate",
            "TIDEGATE_ACCEPT_GAPS": "1",
        }
    )
    assert (settings.app_id, settings.topic_prefix, settings.data_dir, settings.accept_gaps) == (
        "desk",
        "test.",
        Path("/var/lib/gate"),
        True,
    )


def test_what_decides_how_long_a_worker_may_be_gone_or_stuck_can_be_set() -> None:
    environ = {"SESSION_TIMEOUT": "30s", "UNHEALTHY_AFTER": "5s", "STALL_DEADLINE": "2m", "STANDBY": "1"}
    environ |= {"INSTANCE_ID": "gate-0"}
    settings = Settings.from_environment(BROKER | {f"TIDEGATE_{name}": value for name, value in environ.items()})
    assert (settings.session_timeout_ms, settings.unhealthy_after_ms, settings.stall_deadline_ms) == (
        30_000,
        5_000,
        120_000,
    )
    assert (settings.standby, settings.instance_id) == (True, "gate-0")
    default = Settings.from_environment(BROKER)
    assert (default.standby, default.instance_id, default.http) == (False, "", "")


def test_what_bounds_the_memory_can_be_set() -> None:
    settings = Settings.from_environment(
        BROKER | {"TIDEGATE_CACHED_ACCOUNTS": "5000", "TIDEGATE_STORE_CACHE_MB": "8", "TIDEGATE_METRICS_ACCOUNTS": "0"}
    )
    assert (settings.cached_accounts, settings.store_cache_bytes, settings.metrics_accounts) == (5_000, 8 << 20, 0)


def test_arguments_win_over_the_environment_unless_they_are_none() -> None:
    settings = Settings.from_environment(BROKER | {"TIDEGATE_APP_ID": "desk"}, broker="kafka://x:1", app_id=None)
    assert (settings.broker, settings.app_id) == ("kafka://x:1", "desk")


@pytest.mark.parametrize(
    "broker", ["", "one:9092", "amqp://one:9092", "kafka://one", "kafka://one:9092,", "kafka://:1"]
)
def test_an_unusable_broker_is_refused(broker: str) -> None:
    with pytest.raises(SettingsError, match="TIDEGATE_BROKER"):
        Settings.from_environment({"TIDEGATE_BROKER": broker})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TIDEGATE_KAFKA_SECURITY_PROTOCOL", "TLS"),
        ("TIDEGATE_KAFKA_SASL_MECHANISM", "GSSAPI"),
        ("TIDEGATE_KAFKA_SSL_CAFILE", "/nowhere/ca.pem"),
        ("TIDEGATE_KAFKA_SASL_PASSWORD_FILE", "/nowhere/password"),
        ("TIDEGATE_KAFKA_SSL_CHECK_HOSTNAME", "maybe"),
        ("TIDEGATE_ACCEPT_GAPS", "yes"),
        ("TIDEGATE_STANDBY", "2"),
        ("TIDEGATE_SESSION_TIMEOUT", "30"),
        ("TIDEGATE_UNHEALTHY_AFTER", "0s"),
        ("TIDEGATE_STALL_DEADLINE", "soon"),
        ("TIDEGATE_INSTANCE_ID", "gate 0"),
        ("TIDEGATE_CACHED_ACCOUNTS", "many"),
        ("TIDEGATE_STORE_CACHE_MB", "7"),
    ],
)
def test_an_unusable_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment(BROKER | {name: value})


@pytest.mark.parametrize(
    "given", [{}, {"TIDEGATE_KAFKA_SASL_USERNAME": "ann"}, {"TIDEGATE_KAFKA_SASL_PASSWORD": SECRET}]
)
def test_sasl_needs_user_and_password(given: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="TIDEGATE_KAFKA_SASL_PASSWORD") as raised:
        Security.from_environment({"TIDEGATE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"} | given)
    assert SECRET not in str(raised.value)


def test_secrets_may_come_from_files_and_stay_out_of_repr(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET + "\n")
    settings = Settings.from_environment(
        BROKER
        | {
            "TIDEGATE_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "TIDEGATE_KAFKA_SASL_USERNAME": "ann",
            "TIDEGATE_KAFKA_SASL_PASSWORD_FILE": str(file),
        }
    )
    assert settings.security.sasl_password == SECRET
    assert SECRET not in repr(settings)


def test_an_unreadable_secret_is_not_repeated(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"\xff" + SECRET.encode())
    with pytest.raises(SettingsError, match="TIDEGATE_KAFKA_SASL_PASSWORD_FILE") as raised:
        Security.from_environment({"TIDEGATE_KAFKA_SASL_PASSWORD_FILE": str(file)})
    assert SECRET not in repr(raised.value)
    assert raised.value.__cause__ is None


async def test_every_kind_of_client_gets_the_security_settings() -> None:
    security = Security(protocol="SASL_SSL", sasl_mechanism="SCRAM-SHA-512", sasl_username="ann", sasl_password=SECRET)
    settings = Settings(broker="kafka://one:9092", security=security)
    consumer, producer, admin = kafka.consumer(settings), kafka.producer(settings), kafka.admin(settings)
    for client in (consumer._client, producer.client, admin._client):
        assert client._security_protocol == "SASL_SSL"
        assert client._sasl_mechanism == "SCRAM-SHA-512"
        assert (client._sasl_plain_username, client._sasl_plain_password) == ("ann", SECRET)
        assert isinstance(client._ssl_context, ssl.SSLContext)
    for started in (consumer, producer):
        await started.stop()


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    settings = Settings(broker="kafka://one:9092", security=Security(protocol="SSL", ssl_cafile=str(broken)))
    with pytest.raises(SettingsError, match="TIDEGATE_KAFKA_SSL"):
        kafka.admin(settings)


@pytest.mark.parametrize("partitions", [1, 12, 997])
@pytest.mark.parametrize(
    ("key", "murmur2"),
    # The examples of Kafka's own test of Utils.murmur2.
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_keys_go_where_kafkas_default_partitioner_puts_them(key: bytes, murmur2: int, partitions: int) -> None:
    assert kafka.partition_of_key(key, partitions) == (murmur2 & 0x7FFFFFFF) % partitions
