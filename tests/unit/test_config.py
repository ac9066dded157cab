"""Configuration: every default, every kind of nonsense with the key that it names, and the environment."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from streams.config import ConfigError, load_config, load_rules, parse_config, refuse_misspelt_routes
from streams.core.rules import Profile, Rules, rules_of


def rules(table: dict[str, Any] | None = None, env: Mapping[str, str] | None = None) -> Rules:
    return rules_of(parse_config(table or {}, env or {}))


def fault(table: dict[str, Any], env: Mapping[str, str] | None = None) -> str:
    """The message that stops the start."""
    with pytest.raises(ConfigError) as raised:
        parse_config(table, env or {})
    return str(raised.value)


# -- defaults ------------------------------------------------------------------------------------------------------


def test_defaults_of_an_empty_configuration() -> None:
    made = rules()
    assert made.clock == "wall"
    assert made.two_person is False
    assert (made.accounts, made.routes, made.instruments, made.rollout) == ({}, {}, {}, None)
    limits = made.limits
    assert (limits.max_pnl_age_ms, limits.max_signal_age_ms, limits.order_valid_ms) == (60_000, 30_000, 30_000)
    assert limits.dedup_horizon_ms == 86_400_000
    assert (limits.max_notional_per_order, limits.price_collar, limits.rate_limit_orders) == (None, None, None)
    assert all(not lists.whitelist and not lists.blacklist for lists in made.lists.values())
    assert made.version == 0


TIERS = (Decimal("0.5"), Decimal("0.8"))


@pytest.mark.parametrize(
    ("name", "daily", "weekly", "risk", "leverage", "positions", "spot_only"),
    [
        ("micro", "0.005", "0.015", "0.002", "1", 2, True),
        ("low", "0.01", "0.03", "0.005", "2", 4, False),
        ("normal", "0.02", "0.05", "0.01", "3", 6, False),
        ("aggressive", "0.035", "0.08", "0.02", "5", 10, False),
    ],
)
def test_default_profiles(
    name: str, daily: str, weekly: str, risk: str, leverage: str, positions: int, spot_only: bool
) -> None:
    assert rules().profiles[name] == Profile(
        name=name,
        max_daily_drawdown=Decimal(daily),
        max_weekly_drawdown=Decimal(weekly),
        max_trailing_drawdown=None,
        max_trade_risk=Decimal(risk),
        max_leverage=Decimal(leverage),
        max_open_positions=positions,
        spot_only=spot_only,
        headroom=True,
        breach="reach",
        confirmations=1,
        warning=TIERS,
    )


def test_defaults_of_an_account() -> None:
    account = rules({"accounts": {"a": {}}}).accounts["a"]
    assert (account.exchange, account.failover, account.profile, account.timezone) == (None, (), "micro", "UTC")
    assert (account.day_start_minutes, account.currency, account.base) == (0, None, "equity")
    assert (account.loss_basis, account.initial_capital) == ("base", None)


def test_defaults_of_an_instrument() -> None:
    one = rules({"instruments": {"BTC-USD": {}}}).instruments["BTC-USD"]
    assert (one.multiplier, one.fee_rate, one.slippage) == (Decimal(1), Decimal(0), Decimal(0))


def test_what_a_profile_does_not_name_keeps_its_default() -> None:
    profiles = rules({"profiles": {"low": {"max_leverage": "1.5", "warning": []}}}).profiles
    assert (profiles["low"].max_leverage, profiles["low"].warning) == (Decimal("1.5"), ())
    assert profiles["low"].max_daily_drawdown == Decimal("0.010")
    assert profiles["normal"] == rules().profiles["normal"]


# -- the contract's example ----------------------------------------------------------------------------------------

EXAMPLE = """
clock = "record"
broker = "kafka://localhost:9092"

[accounts.friend1_firi]
exchange = "firi"
failover = ["kraken"]
profile = "low"
timezone = "Europe/Oslo"
day_start = "17:30"
currency = "NOK"
base = "max"
loss_basis = "initial"
initial_capital = "100000"

[profiles.micro]
max_daily_drawdown = 0.0049
max_weekly_drawdown = "0.0149"
max_trailing_drawdown = "0.06"
max_trade_risk = "0.0019"
max_leverage = 1.1
max_open_positions = 3
spot_only = false
headroom = false
breach = "exceed"
confirmations = 2
warning = ["0.9", 0.25]

[strategies]
blacklist = ["bad"]
[strategies.micro]
whitelist = ["trend_follow_btc"]
blacklist = ["worse"]
[strategies.routes]
trend_follow_btc = { account = "main_binance", exchange = "binance" }

[controls]
two_person = true

[limits]
max_pnl_age = "5m"
max_signal_age = "500ms"
order_valid = "1.5s"
dedup_horizon = "2d"
max_notional_per_order = 50000
price_collar = "0.05"
rate_limit = { orders = 100, per = "1s" }

[instruments."BTC-USD"]
multiplier = "10"
fee_rate = "0.0005"
slippage = 0.1234567890123456789012345678
"""


def test_every_key_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tidegate.toml"
    path.write_text(EXAMPLE, encoding="utf-8")
    made = load_rules(path, {})
    assert load_config(path, {}).broker == "kafka://localhost:9092"
    assert (made.clock, made.two_person) == ("record", True)
    account = made.accounts["friend1_firi"]
    assert (account.exchange, account.failover, account.profile) == ("firi", ("kraken",), "low")
    assert (account.timezone, account.day_start_minutes, account.currency) == ("Europe/Oslo", 1050, "NOK")
    assert (account.base, account.loss_basis, account.initial_capital) == ("max", "initial", Decimal(100000))
    assert made.profiles["micro"] == Profile(
        name="micro",
        max_daily_drawdown=Decimal("0.0049"),
        max_weekly_drawdown=Decimal("0.0149"),
        max_trailing_drawdown=Decimal("0.06"),
        max_trade_risk=Decimal("0.0019"),
        max_leverage=Decimal("1.1"),
        max_open_positions=3,
        spot_only=False,
        headroom=False,
        breach="exceed",
        confirmations=2,
        warning=(Decimal("0.9"), Decimal("0.25")),
    )
    assert made.lists[""].blacklist == {"bad"}
    assert made.lists["micro"].whitelist == {"trend_follow_btc"}
    assert made.lists["micro"].blacklist == {"worse"}
    route = made.routes["trend_follow_btc"]
    assert (route.account, route.exchange) == ("main_binance", "binance")
    limits = made.limits
    assert (limits.max_pnl_age_ms, limits.max_signal_age_ms, limits.order_valid_ms) == (300_000, 500, 1_500)
    assert (limits.dedup_horizon_ms, limits.max_notional_per_order) == (172_800_000, Decimal(50_000))
    assert (limits.price_collar, limits.rate_limit_orders, limits.rate_limit_per_ms) == (Decimal("0.05"), 100, 1_000)
    instrument = made.instruments["BTC-USD"]
    assert (instrument.multiplier, instrument.fee_rate) == (Decimal(10), Decimal("0.0005"))
    assert instrument.slippage == Decimal("0.1234567890123456789012345678"), "no binary floating point"


def test_limits_are_not_compared_with_one_another() -> None:
    limits = {"max_daily_drawdown": "1", "max_weekly_drawdown": "0.0001", "max_leverage": "1000"}
    micro = rules({"profiles": {"micro": limits}}).profiles["micro"]
    assert micro.max_daily_drawdown > micro.max_weekly_drawdown


# -- nonsense ------------------------------------------------------------------------------------------------------

FRACTIONS = ("max_daily_drawdown", "max_weekly_drawdown", "max_trailing_drawdown", "max_trade_risk")
NO_FRACTION = ["0", "-0.1", "1.000000000001", "NaN", "Infinity", "2 %", "", True, None, [], float("nan")]

NONSENSE: list[tuple[str, Any]] = [
    ("clock", "sundial"),
    ("clock", 1),
    ("clok", "wall"),
    ("api_key", "x"),
    ("accounts", []),
    ("accounts.a", "binance"),
    ("accounts.a.exchange", 7),
    ("accounts.a.exchange", ""),
    ("accounts.a.failover", "kraken"),
    ("accounts.a.failover", [7]),
    ("accounts.a.profile", "huge"),
    ("accounts.a.profile", "Micro"),
    ("accounts.a.timezone", "Europe/Atlantis"),
    ("accounts.a.timezone", ""),
    ("accounts.a.timezone", "../../etc/passwd"),
    ("accounts.a.timezone", "/etc/localtime"),
    ("accounts.a.timezone", 1),
    ("accounts.a.day_start", "24:00"),
    ("accounts.a.day_start", "7:00"),
    ("accounts.a.day_start", "07:60"),
    ("accounts.a.day_start", 0),
    ("accounts.a.currency", ""),
    ("accounts.a.base", "peak"),
    ("accounts.a.loss_basis", "half"),
    ("accounts.a.initial_capital", "0"),
    ("accounts.a.initial_capital", "-1"),
    ("accounts.a.initial_capital", "Infinity"),
    ("accounts.a.api_key", "x"),
    ("profiles.huge", {}),
    ("profiles.micro.max_leverage", "0"),
    ("profiles.micro.max_leverage", "-1"),
    ("profiles.micro.max_leverage", "inf"),
    ("profiles.micro.max_open_positions", 0),
    ("profiles.micro.max_open_positions", -1),
    ("profiles.micro.max_open_positions", 1.5),
    ("profiles.micro.max_open_positions", "2"),
    ("profiles.micro.max_open_positions", True),
    ("profiles.micro.spot_only", "yes"),
    ("profiles.micro.headroom", 1),
    ("profiles.micro.breach", "touch"),
    ("profiles.micro.confirmations", 0),
    ("profiles.micro.confirmations", 1.5),
    ("profiles.micro.warning", "0.5"),
    ("profiles.micro.max_levrage", "1"),
    ("strategies.blacklist", "bad"),
    ("strategies.whitelist", ["good"]),
    ("strategies.huge", {}),
    ("strategies.micro.whitelist", "good"),
    ("strategies.micro.blacklist", [1]),
    ("strategies.micro.graylist", []),
    ("strategies.routes.trend", "main"),
    ("strategies.routes.trend.exchange", 7),
    ("controls.two_person", "yes"),
    ("controls.auto_downgrade", "yes"),
    ("venue_watch.orders", 0),
    ("venue_watch.window", "soon"),
    ("venue_watch.cool_down", 300),
    ("venue_watch.venues", ["binance"]),
    ("controls.three_person", True),
    ("limits.max_notional_per_order", "0"),
    ("limits.max_notional_per_order", "NaN"),
    ("limits.rate_limit", "100/s"),
    ("limits.rate_limit.orders", 0),
    ("limits.rate_limit.per", "0s"),
    ("limits.max_pln_age", "60s"),
    ("instruments.BTC-USD.multiplier", "0"),
    ("instruments.BTC-USD.fee_rate", "-0.1"),
    ("instruments.BTC-USD.fee_rate", "1.1"),
    ("instruments.BTC-USD.slippage", "NaN"),
    ("instruments.BTC-USD.tick", "0.1"),
    *((f"profiles.micro.{key}", value) for key in FRACTIONS for value in NO_FRACTION if value is not None),
    *(("limits.price_collar", value) for value in NO_FRACTION if value is not None),
    *(
        (f"limits.{key}", value)
        for key in ("max_pnl_age", "max_signal_age", "order_valid", "dedup_horizon")
        for value in ("0s", "-1s", "60", 60, "1 minute", "1w", "", "0.1ms", "infs", None)
    ),
]


@pytest.mark.parametrize(("key", "value"), NONSENSE, ids=lambda one: repr(one) if not isinstance(one, str) else one)
def test_nonsense_stops_the_start_and_names_its_key(key: str, value: Any) -> None:
    table: dict[str, Any] = {"accounts": {"a": {}}} if key.startswith("accounts.") else {}
    if key.startswith("strategies.routes.trend."):
        table = {"strategies": {"routes": {"trend": {"account": "a"}}}}
    if key.startswith("limits.rate_limit."):
        table = {"limits": {"rate_limit": {"orders": 1, "per": "1s"}}}
    at = table
    *path, last = key.split(".")
    for part in path:
        at = at.setdefault(part, {})
    at[last] = value
    assert key in fault(table)


def test_initial_without_capital_names_the_key() -> None:
    message = fault({"accounts": {"a": {"loss_basis": "initial"}}})
    assert "accounts.a" in message
    assert "initial_capital" in message


@pytest.mark.parametrize("key", ["account", "orders", "per"])
def test_a_missing_key_is_named(key: str) -> None:
    tables: dict[str, dict[str, Any]] = {
        "account": {"strategies": {"routes": {"trend": {}}}},
        "orders": {"limits": {"rate_limit": {"per": "1s"}}},
        "per": {"limits": {"rate_limit": {"orders": 1}}},
    }
    assert f".{key}: " in fault(tables[key])


def test_a_warning_tier_that_is_no_fraction_is_named() -> None:
    assert "profiles.micro.warning" in fault({"profiles": {"micro": {"warning": ["0.5", "1.5"]}}})


def test_every_fault_is_told_at_once() -> None:
    message = fault({"clock": "sundial", "limits": {"price_collar": "2"}, "accounts": {"a": {"timezone": "Mars"}}})
    assert len(message.splitlines()) == 3
    assert all(key in message for key in ("clock", "limits.price_collar", "accounts.a.timezone"))


# -- files ---------------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load_config(tmp_path / "none.toml", {})


@pytest.mark.parametrize("content", [b"clock = ", b"\xff\xfe", b"[a]\n[a]\n"])
def test_a_file_that_is_not_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        load_config(path, {})


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=tmp_path.name):
        load_config(tmp_path, {})


def test_tidegate_toml_of_the_directory_is_read_if_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(None, {}).clock == "wall"
    (tmp_path / "tidegate.toml").write_text('clock = "record"')
    assert load_config(None, {}).clock == "record"


# -- environment ---------------------------------------------------------------------------------------------------


def test_environment_overrides_clock_broker_and_limits() -> None:
    table = {"clock": "wall", "broker": "kafka://a:1", "limits": {"max_pnl_age": "1s", "order_valid": "2s"}}
    env = {
        "TIDEGATE_CLOCK": "record",
        "TIDEGATE_BROKER": "kafka://b:2",
        "TIDEGATE_LIMITS_MAX_PNL_AGE": "5m",
        "TIDEGATE_LIMITS_PRICE_COLLAR": "0.1",
        "TIDEGATE_LIMITS_MAX_NOTIONAL_PER_ORDER": "7",
        "TIDEGATE_LIMITS_MAX_SIGNAL_AGE": "3s",
        "TIDEGATE_LIMITS_DEDUP_HORIZON": "1h",
    }
    made = parse_config(table, env)
    assert (made.clock, made.broker) == ("record", "kafka://b:2")
    limits = made.limits
    assert (limits.max_pnl_age, limits.order_valid, limits.max_signal_age) == (300_000, 2_000, 3_000)
    assert (limits.price_collar, limits.max_notional_per_order, limits.dedup_horizon) == (
        Decimal("0.1"),
        Decimal(7),
        3_600_000,
    )
    assert table["limits"] == {"max_pnl_age": "1s", "order_valid": "2s"}, "the file's table is not changed"


def test_limits_of_the_environment_alone() -> None:
    assert rules({}, {"TIDEGATE_LIMITS_MAX_PNL_AGE": "2h"}).limits.max_pnl_age_ms == 7_200_000


@pytest.mark.parametrize(
    ("variable", "value", "key"),
    [
        ("TIDEGATE_CLOCK", "sundial", "clock"),
        ("TIDEGATE_LIMITS_MAX_PNL_AGE", "60", "limits.max_pnl_age"),
        ("TIDEGATE_LIMITS_PRICE_COLLAR", "2", "limits.price_collar"),
    ],
)
def test_nonsense_in_the_environment_names_its_key(variable: str, value: str, key: str) -> None:
    assert key in fault({}, {variable: value})


def test_accounts_from_the_environment_alone() -> None:
    env = {
        "QT_ACCOUNT_MAIN_BINANCE_EXCHANGE": "binance",
        "QT_ACCOUNT_MAIN_BINANCE_CAPITAL_PROFILE": "normal",
        "QT_ACCOUNT_FRIEND1_FIRI_EXCHANGE": "firi",
        "PATH": "/bin",
    }
    accounts = rules({}, env).accounts
    assert sorted(accounts) == ["friend1_firi", "main_binance"]
    assert (accounts["main_binance"].exchange, accounts["main_binance"].profile) == ("binance", "normal")
    assert (accounts["friend1_firi"].exchange, accounts["friend1_firi"].profile) == ("firi", "micro")


def test_accounts_of_file_and_environment_together() -> None:
    table = {"accounts": {"a": {"timezone": "Europe/Oslo"}, "b": {}}}
    accounts = rules(table, {"QT_ACCOUNT_A_EXCHANGE": "firi", "QT_ACCOUNT_C_EXCHANGE": "x"}).accounts
    assert sorted(accounts) == ["a", "b", "c"]
    assert (accounts["a"].exchange, accounts["a"].timezone) == ("firi", "Europe/Oslo")


def test_an_unknown_profile_in_the_environment_names_the_account() -> None:
    assert "accounts.a.profile" in fault({}, {"QT_ACCOUNT_A_CAPITAL_PROFILE": "huge"})


class Guarded(Mapping[str, str]):
    """An environment that fails the test when a secret is looked at."""

    SECRET = ("_API_KEY", "_API_SECRET", "_CLIENT_ID")

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> str:
        if name.endswith(self.SECRET):
            raise AssertionError(f"{name} was read")
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def test_secrets_are_never_read() -> None:
    env = Guarded(
        {
            "QT_ACCOUNT_A_API_KEY": "k",
            "QT_ACCOUNT_A_EXCHANGE": "binance",
            "QT_ACCOUNT_A_API_SECRET": "s",
            "QT_ACCOUNT_A_CLIENT_ID": "c",
            "QT_ACCOUNT_B_API_KEY": "k",
            "TIDEGATE_CLOCK": "record",
        }
    )
    made = rules({}, env)
    assert list(made.accounts) == ["a"], "a secret alone makes no account"


def test_a_fault_never_shows_a_secret() -> None:
    env = {"QT_ACCOUNT_A_API_KEY": "hunter2", "QT_ACCOUNT_A_CAPITAL_PROFILE": "huge"}
    assert "hunter2" not in fault({}, env)


def test_a_routes_venue_that_no_account_has_is_refused_to_a_worker() -> None:
    """Approved, it would reach no exchange. The route of an account that comes from elsewhere is not judged."""
    table: dict[str, Any] = {
        "accounts": {"main": {"exchange": "binance"}, "other": {"exchange": "kraken"}},
        "strategies": {"routes": {"trend": {"account": "main", "exchange": "binanse"}}},
    }
    with pytest.raises(ConfigError, match=r"strategies\.routes\.trend\.exchange: 'binanse'.*binance, kraken"):
        refuse_misspelt_routes(rules_of(parse_config(table, {})))
    table["strategies"]["routes"]["trend"]["exchange"] = "kraken"
    refuse_misspelt_routes(rules_of(parse_config(table, {})))
    table["strategies"]["routes"]["trend"] = {"account": "elsewhere", "exchange": "binanse"}
    refuse_misspelt_routes(rules_of(parse_config(table, {})))


@pytest.mark.parametrize(
    "text",
    ["x = " + "1" * 5_000, "x = 1e99999999999999999999999", "x = " + "[" * 100_000],
    ids=["digits", "exponent", "depth"],
)
def test_a_file_that_is_absurd_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tidegate.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"tidegate\.toml"):
        load_config(path, {})


def test_an_absurd_duration_names_its_key() -> None:
    with pytest.raises(ConfigError, match=r"limits\.max_pnl_age"):
        parse_config({}, {"TIDEGATE_LIMITS_MAX_PNL_AGE": "9" * 40 + "s"})


def test_accounts_with_the_same_rules_share_one_value() -> None:
    table: dict[str, Any] = {
        "accounts": {f"a{number}": {"exchange": "binance", "profile": "low"} for number in range(9)}
    }
    table["accounts"]["other"] = {"exchange": "binance", "profile": "normal"}
    accounts = rules_of(parse_config(table, {})).accounts
    assert len({id(rules) for rules in accounts.values()}) == 2
    assert accounts["a3"].profile == "low"
    assert accounts["other"].profile == "normal"
