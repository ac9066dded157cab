"""Secrets stay out of whatever is said about settings; what is wrong with them is said without them."""

import dataclasses
import ssl
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from infra.brokers import free_ports
from streams.ops.exits import CommandError
from streams.ops.options import connect
from streams.runtime import kafka
from streams.runtime.access import AccessDenied, Entry, Kind, Operation, principal_of
from streams.runtime.settings import Security, Settings, SettingsError
from tests.integration.secured import Authority

CANARY = "canary-0f6b1d"
BROKER = {"TIDEGATE_BROKER": "kafka://127.0.0.1:1"}
SASL = {
    "TIDEGATE_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "TIDEGATE_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    "TIDEGATE_KAFKA_SASL_USERNAME": "ann",
}


def told(error: BaseException) -> str:
    """Everything that a log or a terminal could show of an error, its causes and their frames included."""
    return repr(error) + "".join(traceback.format_exception(error))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def environment(directory: Path, **wrong: Any) -> dict[str, str]:
    """SASL settings whose every secret is a canary, but for what is set wrong."""
    password = directory / "password"
    password.write_text(CANARY)
    given = BROKER | SASL | {"TIDEGATE_KAFKA_SASL_PASSWORD_FILE": str(password)}
    return {name: value for name, value in (given | wrong).items() if value is not None}


def test_settings_are_shown_without_their_secrets() -> None:
    security = Security(protocol="SASL_SSL", sasl_username="ann", sasl_password=CANARY, ssl_key_password=CANARY)
    settings = Settings(broker="kafka://one:9092", security=security)
    shown = f"{settings} {settings!r} {security!s} {principal_of(security)} {AccessDenied(security, ())}"
    assert CANARY not in shown
    assert "User:ann" in shown


def test_every_field_that_holds_a_secret_is_kept_out_of_repr() -> None:
    secret = {one.name for one in dataclasses.fields(Security) if "password" in one.name or "secret" in one.name}
    assert secret == {"sasl_password", "ssl_key_password"}
    assert {one.name for one in dataclasses.fields(Security) if not one.repr} == secret


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"TIDEGATE_KAFKA_SECURITY_PROTOCOL": "TLS"}, "TIDEGATE_KAFKA_SECURITY_PROTOCOL"),
        ({"TIDEGATE_KAFKA_SECURITY_PROTOCOL": None}, "TIDEGATE_KAFKA_SASL_PASSWORD is set, but not used"),
        ({"TIDEGATE_KAFKA_SECURITY_PROTOCOL": "SSL"}, "TIDEGATE_KAFKA_SASL_PASSWORD is set, but not used"),
        ({"TIDEGATE_KAFKA_SASL_MECHANISM": "GSSAPI"}, "TIDEGATE_KAFKA_SASL_MECHANISM"),
        ({"TIDEGATE_KAFKA_SASL_USERNAME": None}, "TIDEGATE_KAFKA_SASL_USERNAME"),
        ({"TIDEGATE_KAFKA_SASL_PASSWORD": CANARY}, "both TIDEGATE_KAFKA_SASL_PASSWORD and"),
        ({"TIDEGATE_BROKER": f"kafka://ann:{CANARY}@one:9092"}, "TIDEGATE_BROKER"),
        ({"TIDEGATE_BROKER": f"kafka:ann:{CANARY}@one:9092"}, "TIDEGATE_BROKER"),
    ],
)
def test_wrong_settings_are_named_and_secrets_are_not(wrong: Mapping[str, str], named: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=named) as raised:
        Settings.from_environment(environment(tmp_path, **wrong))
    assert CANARY not in told(raised.value)
    with pytest.raises(CommandError) as refused:
        connect(None, environment(tmp_path, **wrong)["TIDEGATE_BROKER"], None, None, environment(tmp_path, **wrong))
    assert CANARY not in told(refused.value)


@pytest.mark.parametrize(
    ("name", "protocol", "told_of"),
    [
        ("TIDEGATE_KAFKA_SSL_CAFILE", "PLAINTEXT", "SECURITY_PROTOCOL than PLAINTEXT"),
        ("TIDEGATE_KAFKA_SSL_CERTFILE", "PLAINTEXT", "SECURITY_PROTOCOL than PLAINTEXT"),
        ("TIDEGATE_KAFKA_SSL_KEYFILE", "SSL", "TIDEGATE_KAFKA_SSL_CERTFILE beside it"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(
    name: str, protocol: str, told_of: str, authority: Authority
) -> None:
    """Whoever names an authority and forgets the protocol would send everything in the clear."""
    given = BROKER | {"TIDEGATE_KAFKA_SECURITY_PROTOCOL": protocol, name: str(authority.file)}
    with pytest.raises(SettingsError, match=f"{name} is set, but not used.*{told_of}"):
        Settings.from_environment(given)


def tls(authority: Authority, **fields: Any) -> Settings:
    given: dict[str, Any] = {"protocol": "SSL", "ssl_cafile": str(authority.file)}
    return Settings(broker="kafka://127.0.0.1:1", security=Security(**(given | fields)))


@pytest.mark.parametrize("password", [None, f"{CANARY}-wrong"])
def test_a_key_that_stays_closed_is_told_and_nobody_is_asked(authority: Authority, password: str | None) -> None:
    """Without a password OpenSSL would ask on the terminal, and the process would wait there."""
    sealed = authority.issue(f"sealed-{password}", password=f"{CANARY}-right")
    settings = tls(authority, ssl_certfile=str(sealed.cert), ssl_keyfile=str(sealed.key), ssl_key_password=password)
    with pytest.raises(SettingsError, match="TIDEGATE_KAFKA_SSL_CERTFILE, …_SSL_KEYFILE, …_SSL_KEY_PASSWORD") as raised:
        kafka.admin(settings)
    assert CANARY not in told(raised.value)


async def test_an_open_key_is_used(authority: Authority) -> None:
    sealed = authority.issue("opened", password=CANARY)
    settings = tls(authority, ssl_certfile=str(sealed.cert), ssl_keyfile=str(sealed.key), ssl_key_password=CANARY)
    assert kafka.admin(settings) is not None


@pytest.mark.parametrize(
    ("field", "named"), [("ssl_cafile", "TIDEGATE_KAFKA_SSL_CAFILE"), ("ssl_certfile", "TIDEGATE_KAFKA_SSL_CERTFILE")]
)
def test_a_file_that_is_no_certificate_is_named_and_not_quoted(
    field: str, named: str, authority: Authority, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text(f"-----BEGIN CERTIFICATE-----\n{CANARY}\n-----END CERTIFICATE-----\n")
    with pytest.raises(SettingsError, match=named) as raised:
        kafka.admin(tls(authority, **{field: str(broken)}))
    assert CANARY not in told(raised.value)


def test_a_key_of_another_certificate_is_told(authority: Authority) -> None:
    one, other = authority.issue("one"), authority.issue("other")
    with pytest.raises(SettingsError, match="the key belongs to the certificate"):
        kafka.admin(tls(authority, ssl_certfile=str(one.cert), ssl_keyfile=str(other.key)))


async def test_the_hosts_name_is_checked_unless_that_is_turned_off(authority: Authority) -> None:
    def context(**fields: Any) -> ssl.SSLContext:
        found: ssl.SSLContext = kafka.admin(tls(authority, **fields))._client._ssl_context
        return found

    assert (context().check_hostname, context().verify_mode) == (True, ssl.CERT_REQUIRED)
    unchecked = context(ssl_check_hostname=False)
    assert (unchecked.check_hostname, unchecked.verify_mode) == (False, ssl.CERT_REQUIRED)


async def test_a_broker_that_is_away_is_not_a_refusal() -> None:
    (port,) = free_ports(1)
    security = Security(protocol="SASL_PLAINTEXT", sasl_username="ann", sasl_password=CANARY)
    assert await kafka.refusal(Settings(broker=f"kafka://127.0.0.1:{port}", security=security)) is None


def test_a_long_denial_stays_one_line() -> None:
    entries = [Entry(Kind.TOPIC, f"t-{number}", Operation.READ) for number in range(9)]
    message = str(AccessDenied(Security(), entries))
    assert message.startswith("User:ANONYMOUS may not READ topic t-0; READ topic t-1")
    assert "t-8" not in message
    assert "and 5 more" in message
