"""Configuration as desks write it: ``tidegate.toml`` and the environment (contract, section 6).

Everything is read and checked before anything starts. :class:`ConfigError` names every key that is wrong, its value
and the remedy. Broker credentials and executors' API keys are not configuration of the rules and are never read here.
"""

import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.config import ConfigFile, LimitsSection
from streams.core.rules import Rules, rules_of

DEFAULT_PATH = Path("tidegate.toml")
_ACCOUNT_PREFIX = "QT_ACCOUNT_"
_ACCOUNT_KEYS = {"_EXCHANGE": "exchange", "_CAPITAL_PROFILE": "profile"}
_LIMIT_PREFIX = "TIDEGATE_LIMITS_"


class ConfigError(Exception):
    """A configuration that must not start, one line a fault."""


def load_config(path: Path | None, env: Mapping[str, str]) -> ConfigFile:
    """Read the file (None: ``tidegate.toml`` if it is there) and what the environment adds. Raises ConfigError."""
    if path is None and DEFAULT_PATH.exists():
        path = DEFAULT_PATH
    return parse_config(_read(path) if path is not None else {}, env)


def load_rules(path: Path | None, env: Mapping[str, str]) -> Rules:
    """The rules of the configuration, before any policy. Raises ConfigError."""
    return rules_of(load_config(path, env))


def parse_config(table: dict[str, Any], env: Mapping[str, str]) -> ConfigFile:
    """A parsed TOML table with the environment over it, checked. Raises ConfigError."""
    merged = _with_environment(table, env)
    try:
        return ConfigFile.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("\n".join(_say(one) for one in error.errors(include_url=False))) from None


def refuse_misspelt_routes(rules: Rules) -> None:
    """A route's venue that no account has would be approved and reach no exchange. Raises ConfigError.

    The rules allow a venue that is not among its own account's; routes of accounts from elsewhere are not judged.
    """
    venues = {venue for account in rules.accounts.values() for venue in account.venues}
    for strategy, route in rules.routes.items():
        if route.account in rules.accounts and route.exchange is not None and route.exchange not in venues:
            raise ConfigError(
                f"strategies.routes.{strategy}.exchange: {route.exchange!r} is no account's exchange or failover; "
                f"use one of {', '.join(sorted(venues)) or 'those (none is configured)'}"
            )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; give its path with --config") from None
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise ConfigError(f"{path}: is not TOML ({error})") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


def _with_environment(table: dict[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    merged = dict(table)
    for name, key in (("TIDEGATE_CLOCK", "clock"), ("TIDEGATE_BROKER", "broker")):
        if env.get(name):
            merged[key] = env[name]
    limits = {key: env[name] for key in LimitsSection.model_fields if env.get(name := f"{_LIMIT_PREFIX}{key.upper()}")}
    if limits and isinstance(merged.get("limits", {}), dict):
        merged["limits"] = {**merged.get("limits", {}), **limits}
    accounts = merged.get("accounts", {})
    if isinstance(accounts, dict) and (named := _environment_accounts(env)):
        merged["accounts"] = _merged_accounts(accounts, named)
    return merged


def _environment_accounts(env: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """``QT_ACCOUNT_<NAME>_EXCHANGE`` and ``…_CAPITAL_PROFILE``; keys and secrets beside them are not touched."""
    accounts: dict[str, dict[str, str]] = {}
    for variable in env:
        for suffix, key in _ACCOUNT_KEYS.items():
            name = variable.removeprefix(_ACCOUNT_PREFIX).removesuffix(suffix)
            if variable == f"{_ACCOUNT_PREFIX}{name}{suffix}" and name and (value := env[variable]):
                accounts.setdefault(name.lower(), {})[key] = value.lower() if key == "profile" else value
    return accounts


def _merged_accounts(table: dict[str, Any], named: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Both sources together; where they contradict, the start is stopped rather than one silently preferred."""
    merged = dict(table)
    for name, values in named.items():
        section = merged.get(name, {})
        if not isinstance(section, dict):
            continue
        for key, value in values.items():
            if key in section and section[key] != value:
                suffix = next(suffix for suffix, target in _ACCOUNT_KEYS.items() if target == key)
                raise ConfigError(
                    f"accounts.{name}.{key}: {section[key]!r} in the file, {value!r} in "
                    f"{_ACCOUNT_PREFIX}{name.upper()}{suffix}; keep one of them"
                )
        merged[name] = {**section, **values}
    return merged


def _say(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"] if part != "[key]") or "configuration"
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return str(message)  # of several tables together: it names its key itself
    if error["type"] == "extra_forbidden":
        return f"{key}: is not a key of the configuration; check its spelling"
    if error["type"] == "missing":
        return f"{key}: is missing"
    value = error["input"]
    shown = "" if isinstance(value, dict) else f"{str(value) if isinstance(value, Decimal) else repr(value)}: "
    return f"{key}: {shown}{message[0].lower() + message[1:]}"
