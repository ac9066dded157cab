"""Checks of the connection: who this client is, what it may do, and whether the brokers are who they say.

Who else may do what is checked in ``cluster``, from the ACLs.
"""

import asyncio
import ssl

from streams.ops.preflight.check import Finding, check, failed, passed, some, warned
from streams.ops.preflight.context import Cluster, Context, Identity, Part
from streams.runtime import kafka
from streams.runtime.access import missing, principal_of
from streams.runtime.settings import Settings

ACCESS = "access"
ROLE = "operator"
"""Preflight reads all that an operator may read, and its fixes are his commands."""

_DAY_MS = 86_400_000
_EXPIRES_SOON_MS, _EXPIRES_NOW_MS = 21 * _DAY_MS, 3 * _DAY_MS
_LOOPBACK = ("localhost", "127.", "[::1]", "::1")
_CONNECT_DEADLINE_S = 5.0


async def read_identity(settings: Settings, cluster: Part[Cluster]) -> Identity:
    """Ask the brokers who this client is to them, and each for its certificate. Raises KafkaError, OSError."""
    lacking = [entry.words for entry in await missing(settings, ROLE)]
    expiries = {}
    if (context := kafka.tls(settings)) is not None:
        for address in cluster.get().brokers.values():
            expiries[address] = await _expiry_ms(address, context)
    return Identity(principal_of(settings.security), lacking, expiries)


async def _expiry_ms(address: str, context: ssl.SSLContext) -> int:
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(_CONNECT_DEADLINE_S):
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    try:
        certificate = writer.get_extra_info("peercert")
        return int(ssl.cert_time_to_seconds(certificate["notAfter"]) * 1000)
    finally:
        writer.close()


@check(ACCESS, "own-rights")
def own_rights(context: Context) -> Finding:
    """This client may do what an operator does."""
    identity = context.identity.get()
    if identity.lacking:
        return warned(
            f"{identity.principal} may not {some(identity.lacking, 3)}",
            f"tidegate access acls --role {ROLE} --principal User:NAME has what it lacks; some commands fail till then",
        )
    return passed(f"{identity.principal}")


@check(ACCESS, "login-private")
def login_is_private(context: Context) -> Finding:
    """No password crosses the network in the clear."""
    security = context.settings.security
    local = all(server.startswith(_LOOPBACK) for server in context.settings.bootstrap.split(","))
    if security.uses_sasl and security.sasl_mechanism == "PLAIN" and not security.uses_tls and not local:
        return failed(
            "SASL PLAIN without TLS", "use SASL_SSL, or SCRAM: whoever listens has the password, and with it the gate"
        )
    return passed(f"{security.protocol}{f', {security.sasl_mechanism}' if security.uses_sasl else ''}")


@check(ACCESS, "brokers-proved")
def brokers_are_proved(context: Context) -> Finding:
    """The brokers prove who they are."""
    security = context.settings.security
    if security.uses_tls and not security.ssl_check_hostname:
        return failed(
            "TIDEGATE_KAFKA_SSL_CHECK_HOSTNAME=0",
            "take it away, and put the brokers' names into their certificates: any certificate of the same authority "
            "passes for a broker now",
        )
    return passed("their certificates name their hosts" if security.uses_tls else "no TLS, nothing to prove")


@check(ACCESS, "certificates-valid")
def certificates_last(context: Context) -> Finding:
    """The brokers' certificates last."""
    expiries = context.identity.get().expiries
    left = {address: at_ms - context.now_ms for address, at_ms in expiries.items()}
    soon = [f"{address} in {ms // _DAY_MS} d" for address, ms in left.items() if ms < _EXPIRES_SOON_MS]
    fix = "renew them (infra/security/README.md, rotation): once one has expired no client connects to that broker"
    if any(ms < _EXPIRES_NOW_MS for ms in left.values()):
        return failed(f"expire: {some(soon)}", fix)
    if soon:
        return warned(f"expire: {some(soon)}", fix)
    return passed(f"{min(left.values()) // _DAY_MS} d or more" if left else "no TLS, no certificates")


CHECKS = (own_rights, login_is_private, brokers_are_proved, certificates_last)
