"""Worked examples of every reject code: just below its limit, at it and above it, or passing and failing.

``CASES`` is what ``test_reject_codes`` runs. Unless a row says otherwise the signal buys 1 BTC-USD at 100 with a stop
at 99, for an account ``main`` of profile ``normal`` with 10,000 equity.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.unit.desk import ABSENT, Desk, Said


class Case(NamedTuple):
    """One signal and the one check of it that the row is about; ``also``: further codes that fail with it."""

    code: str
    situation: str
    ask: Callable[[], Said]
    passes: bool
    observed: str | None
    limit: str | None
    unit: str
    scope: str
    also: tuple[str, ...] = ()


PASSES, FAILS = True, False


def funded(**desk: Any) -> Desk:
    """A desk whose account has 10,000 equity now."""
    made = Desk(**desk)
    made.pnl("10000")
    return made


def under(*policies: tuple[str, Any], **desk: Any) -> Desk:
    """A funded desk with policies in force."""
    made = funded(**desk)
    for name, rule in policies:
        assert made.policy(name, rule) == []
    return made


def commanded(*commands: str, **desk: Any) -> Desk:
    """A funded desk after operator commands."""
    made = funded(**desk)
    for command in commands:
        made.command(command)
    return made


# -- the signal itself ---------------------------------------------------------------------------------------------


def _invalid(field: str, value: Any, situation: str, *also: str) -> Case:
    def ask() -> Said:
        return funded().signal(**{field: value})

    return Case("INVALID_SIGNAL", f"{field} {situation}", ask, FAILS, field, None, "name", "signal", also)


def _created(offset_s: float, passes: bool, observed: str) -> Case:
    def ask() -> Said:
        desk = funded()
        return desk.signal(created_at=desk.time(seconds=offset_s))

    return Case("STALE_SIGNAL", f"created {offset_s} s", ask, passes, observed, "30", "seconds", "signal")


def _expires(offset_s: float, passes: bool, observed: str) -> Case:
    def ask() -> Said:
        desk = funded()
        return desk.signal(expires_at=desk.time(seconds=offset_s))

    return Case("EXPIRED_SIGNAL", f"expires {offset_s} s", ask, passes, observed, "0", "seconds", "signal")


def _price(situation: str, passes: bool, observed: str, *also: str, **fields: Any) -> Case:
    def ask() -> Said:
        return funded().signal(**fields)

    return Case("INVALID_PRICE", situation, ask, passes, observed, "0", "amount", "signal", also)


def _quantity(quantity: Any, passes: bool, observed: str) -> Case:
    def ask() -> Said:
        return funded().signal(quantity=quantity)

    return Case("INVALID_QUANTITY", f"{quantity}", ask, passes, observed, "0", "amount", "signal")


SIGNAL_ITSELF = (
    Case("INVALID_SIGNAL", "whole", lambda: funded().signal(), PASSES, None, None, "name", "signal"),
    _invalid("strategy_id", ABSENT, "missing"),
    _invalid("strategy_id", 7, "a number"),
    _invalid("instrument", ABSENT, "missing"),
    _invalid("instrument", "", "empty"),
    _invalid("side", "BUY", "upper case"),
    _invalid("side", ABSENT, "missing"),
    _invalid("quantity", ABSENT, "missing"),
    _invalid("quantity", "1,5", "not a number"),
    _invalid("quantity", True, "a boolean"),
    _invalid("price", None, "null"),
    _invalid("price", "1e40", "too large"),
    _invalid("stop_loss", "near", "not a number"),
    _invalid("leverage", "0", "zero"),
    _invalid("leverage", "-2", "negative"),
    _invalid("leverage", "NaN", "not finite"),
    _invalid("leverage", "Infinity", "infinite"),
    _invalid("leverage", [], "a list"),
    _invalid("reduce_only", "true", "a string"),
    _invalid("venue", 3, "a number"),
    _invalid("created_at", "2017-12-19T11:00:00", "naive"),
    _invalid("created_at", 1513681200, "a number"),
    _invalid("created_at", ABSENT, "missing"),
    _invalid("expires_at", "tomorrow", "not a time"),
    Case("UNKNOWN_ACCOUNT", "configured", lambda: funded().signal(), PASSES, "main", None, "name", "account"),
    Case(
        "UNKNOWN_ACCOUNT",
        "not configured",
        lambda: funded().signal(account_id="other"),
        FAILS,
        "other",
        None,
        "name",
        "account",
    ),
    _created(-29.999, PASSES, "29.999"),
    _created(-30, PASSES, "30"),
    _created(-30.001, FAILS, "30.001"),
    _created(29.999, PASSES, "29.999"),
    _created(30, PASSES, "30"),
    _created(30.001, FAILS, "30.001"),
    _expires(0.001, PASSES, "0.001"),
    _expires(0, FAILS, "0"),
    _expires(-0.001, FAILS, "-0.001"),
    _price("smallest", PASSES, "0.000000000001", side="sell", price="0.000000000001", stop_loss="0.000000000002"),
    _price("zero", FAILS, "0", price="0"),
    _price("negative", FAILS, "-100", price="-100"),
    _price("negative zero", FAILS, "0", price="-0.0"),
    _price("NaN", FAILS, "NaN", price="NaN"),
    _price("bare NaN", FAILS, "NaN", price=float("nan")),
    _price("infinite", FAILS, "Infinity", price="inf"),
    _price("minus infinity", FAILS, "-Infinity", price=float("-inf")),
    _price("12 places round it to 0", FAILS, "0", price="0.0000000000005"),
    _price("stop zero", FAILS, "0", "STOP_LOSS_REQUIRED", stop_loss="0"),
    _price("stop negative", FAILS, "-1", "STOP_LOSS_REQUIRED", stop_loss="-1"),
    _price("stop NaN", FAILS, "NaN", "STOP_LOSS_REQUIRED", stop_loss="NaN"),
    _price("stop infinite", FAILS, "Infinity", "STOP_LOSS_REQUIRED", side="sell", stop_loss="Infinity"),
    _price("price comes before stop", FAILS, "-2", price="-2", stop_loss="-1"),
    _quantity("0.000000000001", PASSES, "0.000000000001"),
    _quantity("0", FAILS, "0"),
    _quantity("-1", FAILS, "-1"),
    _quantity("0.0000000000005", FAILS, "0"),
    _quantity("NaN", FAILS, "NaN"),
    _quantity(float("inf"), FAILS, "Infinity"),
    _quantity("-Infinity", FAILS, "-Infinity"),
)

# -- permission ----------------------------------------------------------------------------------------------------


def _halted(situation: str, desk: Callable[[], Desk], passes: bool, observed: str, scope: str) -> Case:
    def ask() -> Said:
        return desk().signal()

    return Case("TRADING_HALTED", situation, ask, passes, observed, None, "name", scope)


def _reducing(situation: str, desk: Callable[[], Desk], passes: bool, observed: str, scope: str) -> Case:
    def ask() -> Said:
        return desk().signal()

    also = ("TRADING_HALTED",) if observed == "HALTED" else ()
    return Case("TRADING_STATE_REDUCING", situation, ask, passes, observed, None, "name", scope, also)


def _state(state: str) -> dict[str, str]:
    return {"state": state}


def _after_unusable_fill() -> Desk:
    desk = funded()
    desk.fill(quantity="-1")
    return desk


STATES = (
    _halted("nothing set", funded, PASSES, "ACTIVE", "global"),
    _halted("all active", lambda: under(("state/global", _state("ACTIVE"))), PASSES, "ACTIVE", "global"),
    _halted("global", lambda: under(("state/global", _state("HALTED"))), FAILS, "HALTED", "global"),
    _halted("its venue", lambda: under(("state/venue/binance", _state("HALTED"))), FAILS, "HALTED", "venue"),
    _halted("another venue", lambda: under(("state/venue/kraken", _state("HALTED"))), PASSES, "ACTIVE", "global"),
    _halted("its strategy", lambda: under(("state/strategy/trend", _state("HALTED"))), FAILS, "HALTED", "strategy"),
    _halted("another strategy", lambda: under(("state/strategy/x", _state("HALTED"))), PASSES, "ACTIVE", "global"),
    _halted("halt command", lambda: commanded("halt"), FAILS, "HALTED", "account"),
    _halted(
        "the most restrictive wins",
        lambda: under(("state/global", _state("REDUCING")), ("state/strategy/trend", _state("HALTED"))),
        FAILS,
        "HALTED",
        "strategy",
    ),
    _halted(
        "the widest of equals",
        lambda: under(("state/venue/binance", _state("HALTED")), ("state/strategy/trend", _state("HALTED"))),
        FAILS,
        "HALTED",
        "venue",
    ),
    _reducing("nothing set", funded, PASSES, "ACTIVE", "global"),
    _reducing("global", lambda: under(("state/global", _state("REDUCING"))), FAILS, "REDUCING", "global"),
    _reducing("its venue", lambda: under(("state/venue/binance", _state("REDUCING"))), FAILS, "REDUCING", "venue"),
    _reducing(
        "its strategy", lambda: under(("state/strategy/trend", _state("REDUCING"))), FAILS, "REDUCING", "strategy"
    ),
    _reducing("unusable fill", _after_unusable_fill, FAILS, "REDUCING", "account"),
)


def _rollout(situation: str, passes: bool, observed: str, phase: Any = "pilot", **lists: Any) -> Case:
    def ask() -> Said:
        return under(("rollout", {"phase": phase, **lists})).signal()

    return Case("ROLLOUT_PHASE", situation, ask, passes, observed, f"{phase}", "name", "global")


ROLLOUT = (
    _rollout("all null", PASSES, "main", accounts=None, profiles=None, venues=None),
    _rollout("all absent, numbered", PASSES, "main", phase=2),
    _rollout("all listed", PASSES, "main", accounts=["main"], profiles=["normal"], venues=["binance"]),
    _rollout("account not listed", FAILS, "main", accounts=["other"]),
    _rollout("nobody listed", FAILS, "main", accounts=[]),
    _rollout("profile not listed", FAILS, "normal", accounts=["main"], profiles=["micro"]),
    _rollout("venue not listed", FAILS, "binance", venues=["kraken"]),
    _rollout("account comes first", FAILS, "main", accounts=[], profiles=[], venues=[]),
    _rollout("profile comes before venue", FAILS, "normal", profiles=[], venues=[]),
)


def _locked(reason: str, equity: str, observed: str | None, limit: str | None, *also: str, **profile: Any) -> Case:
    """Locked at the second update; the drawdown shown is the one at the lock."""

    def ask() -> Said:
        desk = funded(profiles={"normal": profile})
        if reason == "MANUAL":
            desk.command("lock")
        else:
            assert desk.pnl(equity).locks == [reason]
        return desk.signal(quantity="0.1")

    unit = "name" if reason == "MANUAL" else "fraction"
    return Case(f"ACCOUNT_LOCKED_{reason}", "locked", ask, FAILS, observed, limit, unit, "account", also)


def _not_locked(reason: str, unit: str = "fraction") -> Case:
    def ask() -> Said:
        return funded().signal()

    return Case(f"ACCOUNT_LOCKED_{reason}", "not locked", ask, PASSES, None, None, unit, "account")


_NO_ROOM = "RISK_HEADROOM_EXCEEDED"

LOCKS = (
    _not_locked("DAILY_DRAWDOWN"),
    _locked("DAILY_DRAWDOWN", "9750", "0.025", "0.02", "DAILY_DRAWDOWN_REACHED", _NO_ROOM),
    _not_locked("WEEKLY_DRAWDOWN"),
    _locked(
        "WEEKLY_DRAWDOWN",
        "9400",
        "0.06",
        "0.05",
        "WEEKLY_DRAWDOWN_REACHED",
        _NO_ROOM,
        max_daily_drawdown="0.5",
    ),
    _not_locked("TRAILING_DRAWDOWN"),
    _locked("TRAILING_DRAWDOWN", "9850", "0.015", "0.012", "TRAILING_DRAWDOWN_REACHED", max_trailing_drawdown="0.012"),
    _not_locked("MANUAL", "name"),
    _locked("MANUAL", "", None, None),
)


def _reduce_only(situation: str, passes: bool, quantity: str, may: str, held: str = "1", **fields: Any) -> Case:
    def ask() -> Said:
        desk = funded()
        if held != "0":
            desk.hold(held)
        return desk.signal(**{"side": "sell", "stop_loss": "101", "reduce_only": True, "quantity": quantity, **fields})

    code = "REDUCE_ONLY_WOULD_INCREASE_POSITION"
    return Case(code, situation, ask, passes, quantity, may, "amount", "signal")


def _reduce_only_beside_an_exit(quantity: str, passes: bool) -> Case:
    def ask() -> Said:
        desk = funded().hold("1")
        desk.working(side="sell", stop_loss=None, quantity="0.4")
        return desk.signal(side="sell", stop_loss="101", quantity=quantity, reduce_only=True)

    code, situation = "REDUCE_ONLY_WOULD_INCREASE_POSITION", f"{quantity} beside an exit of 0.4"
    return Case(code, situation, ask, passes, quantity, "0.6", "amount", "signal")


REDUCE_ONLY = (
    _reduce_only("less than the position", PASSES, "0.999999999999", "1"),
    _reduce_only("the whole position", PASSES, "1", "1"),
    _reduce_only("more than the position", FAILS, "1.000000000001", "1"),
    _reduce_only("a short", PASSES, "1", "1", held="-1", side="buy"),
    _reduce_only("more than a short", FAILS, "1.5", "1", held="-1", side="buy", stop_loss="99"),
    _reduce_only("same side", FAILS, "1", "0", side="buy", stop_loss="99"),
    _reduce_only("flat", FAILS, "1", "0", held="0"),
    _reduce_only("another instrument", FAILS, "1", "0", instrument="ETH-USD"),
    _reduce_only_beside_an_exit("0.599999999999", PASSES),
    _reduce_only_beside_an_exit("0.6", PASSES),
    _reduce_only_beside_an_exit("0.600000000001", FAILS),
)

# -- strategies and venues -----------------------------------------------------------------------------------------


def _strategy(code: str, situation: str, passes: bool, *also: str, **strategies: Any) -> Case:
    def ask() -> Said:
        return funded(strategies=strategies).signal()

    return Case(code, situation, ask, passes, "trend", None, "name", "strategy", also)


STRATEGIES = (
    _strategy("STRATEGY_BLACKLISTED", "no list", PASSES),
    _strategy("STRATEGY_BLACKLISTED", "others listed", PASSES, blacklist=["other"], normal={"blacklist": ["x"]}),
    _strategy("STRATEGY_BLACKLISTED", "globally", FAILS, blacklist=["trend"]),
    _strategy("STRATEGY_BLACKLISTED", "for the profile", FAILS, normal={"blacklist": ["trend"]}),
    _strategy("STRATEGY_BLACKLISTED", "for another profile", PASSES, micro={"blacklist": ["trend"]}),
    _strategy("STRATEGY_BLACKLISTED", "wins", FAILS, normal={"whitelist": ["trend"], "blacklist": ["trend"]}),
    _strategy("STRATEGY_NOT_WHITELISTED", "listed", PASSES, normal={"whitelist": ["trend", "other"]}),
    _strategy("STRATEGY_NOT_WHITELISTED", "not listed", FAILS, normal={"whitelist": ["other"]}),
)


def _venue(
    code: str,
    situation: str,
    passes: bool,
    observed: str | None,
    *also: str,
    account: dict[str, Any] | None = None,
    down: tuple[str, ...] = (),
    routes: dict[str, Any] | None = None,
    **fields: Any,
) -> Case:
    def ask() -> Said:
        venues = account or {"exchange": "binance", "failover": ["kraken", "firi"]}
        return under(
            *((f"venue/{venue}", {"up": False}) for venue in down),
            account=venues,
            accounts={"other": {"exchange": "bitstamp"}},
            strategies={"routes": routes or {}},
        ).signal(**fields)

    return Case(code, situation, ask, passes, observed, None, "name", "venue", also)


_NOWHERE: dict[str, Any] = {"exchange": None}

VENUES = (
    _venue("NO_VENUE", "primary", PASSES, "binance"),
    _venue("NO_VENUE", "named primary", PASSES, "binance", venue="binance"),
    _venue("NO_VENUE", "named failover", PASSES, "firi", venue="firi"),
    _venue("NO_VENUE", "named, not the account's", FAILS, "bitstamp", venue="bitstamp"),
    _venue("NO_VENUE", "only failover", PASSES, "kraken", account={"exchange": None, "failover": ["kraken"]}),
    _venue("NO_VENUE", "none configured", FAILS, None, account=_NOWHERE),
    _venue("NO_VENUE", "named, none configured", FAILS, "binance", account=_NOWHERE, venue="binance"),
    _venue("NO_VENUE", "route", PASSES, "firi", routes={"trend": {"account": "main", "exchange": "firi"}}),
    _venue("NO_VENUE", "a route knows its venue", PASSES, "x", routes={"trend": {"account": "main", "exchange": "x"}}),
    _venue(
        "NO_VENUE",
        "route of another account",
        PASSES,
        "binance",
        routes={"trend": {"account": "other", "exchange": "x"}},
    ),
    _venue("NO_VENUE", "route without exchange", PASSES, "binance", routes={"trend": {"account": "main"}}),
    _venue("VENUE_UNAVAILABLE", "up", PASSES, "binance"),
    _venue("VENUE_UNAVAILABLE", "primary down", PASSES, "kraken", down=("binance",)),
    _venue("VENUE_UNAVAILABLE", "failover in order", PASSES, "firi", down=("binance", "kraken")),
    _venue("VENUE_UNAVAILABLE", "all down", FAILS, "binance", down=("binance", "kraken", "firi")),
    _venue("VENUE_UNAVAILABLE", "a named one is not failed over", FAILS, "kraken", down=("kraken",), venue="kraken"),
    _venue(
        "VENUE_UNAVAILABLE",
        "a route is failed over",
        PASSES,
        "kraken",
        down=("firi",),
        routes={"trend": {"account": "main", "exchange": "firi"}},
    ),
)

PERMISSION = (*STATES, *ROLLOUT, *LOCKS, *REDUCE_ONLY, *STRATEGIES, *VENUES)
