"""Worked examples of the reject codes from RISK_DATA_MISSING on: equity, drawdown, size, stop, risk and rate.

With 10,000 equity, profile ``normal`` allows 2 % a day (200), 5 % a week, 1 % a trade (100), 3 times leverage and six
open positions.
"""

from collections.abc import Callable
from typing import Any

from tests.unit.desk import Desk, Said
from tests.unit.reject_cases import FAILS, PASSES, Case, funded

# -- equity --------------------------------------------------------------------------------------------------------


def _missing(situation: str, desk: Callable[[], Desk], observed: str | None, **fields: Any) -> Case:
    def ask() -> Said:
        return desk().signal(**fields)

    return Case("RISK_DATA_MISSING", situation, ask, observed is None, observed, None, "name", "account")


def _after(*updates: dict[str, Any], **made: Any) -> Callable[[], Desk]:
    def desk() -> Desk:
        one = Desk(**made)
        for update in updates:
            one.pnl(**update)
        return one

    return desk


_NOK = {"currency": "NOK"}


def _holding_yen() -> Desk:
    return funded(account={"currency": "USD"}).hold("1", instrument="BTC-JPY")


def _entering_yen() -> Desk:
    desk = Desk(account=_NOK)
    desk.pnl(rates={"USD": "8", "JPY": "0.07"})
    desk.working(instrument="BTC-JPY")
    return desk


def _stale(age_s: float, passes: bool, observed: str) -> Case:
    def ask() -> Said:
        return funded().later(seconds=age_s).signal()

    return Case("RISK_DATA_STALE", f"{age_s} s", ask, passes, observed, "60", "seconds", "account")


def _stale_as_of(age_s: float, passes: bool, observed: str) -> Case:
    """The age is that of ``as_of``, not of the record."""

    def ask() -> Said:
        desk = Desk()
        desk.pnl(as_of=desk.time(seconds=-age_s))
        return desk.signal()

    return Case("RISK_DATA_STALE", f"as_of {age_s} s ago", ask, passes, observed, "60", "seconds", "account")


EQUITY = (
    _missing("usable equity", funded, None),
    _missing("none yet", Desk, "equity"),
    _missing("an unusable one since", _after({}, {"equity": "NaN"}), "equity"),
    _missing("a usable one again", _after({}, {"equity": "NaN"}, {}), None),
    _missing("a balance missing where the base needs it", _after({}, account={"base": "max"}), "equity"),
    _missing("emptied by a withdrawal", _after({}, {"equity": "0", "cash_flow": "-10000"}), "equity"),
    _missing("never funded", _after({"equity": "0"}), "equity"),
    _missing("its own currency", _after({}, account={"currency": "USD"}), None),
    _missing("no rate of the quote", _after({}, account=_NOK), "USD"),
    _missing("no rate of a name without dash", _after({}, account=_NOK), "TSLA", instrument="TSLA"),
    _missing("the quote follows the last dash", _after({}, account=_NOK), "USD", instrument="BTC-PERP-USD"),
    _missing("a rate of the quote", _after({"rates": {"USD": "8"}}, account=_NOK), None),
    _missing("rates persist", _after({"rates": {"USD": "8"}}, {"rates": {"JPY": "1"}}, account=_NOK), None),
    _missing("no rate of something held", _holding_yen, "JPY"),
    _missing("rates of what is worked and asked", _entering_yen, None),
    _stale(59.999, PASSES, "59.999"),
    _stale(60, PASSES, "60"),
    _stale(60.001, FAILS, "60.001"),
    _stale_as_of(60, PASSES, "60"),
    _stale_as_of(60.001, FAILS, "60.001"),
)

# -- drawdown ------------------------------------------------------------------------------------------------------


def _unconfirmed(situation: str, passes: bool, observed: str, *equities: str, needed: int = 3) -> Case:
    def ask() -> Said:
        desk = Desk(profiles={"normal": {"confirmations": needed, "headroom": False}})
        for equity in ("10000", *equities):
            assert desk.pnl(equity).locks == []
        return desk.signal()

    also = () if passes else ("DAILY_DRAWDOWN_REACHED", *(("WEEKLY_DRAWDOWN_REACHED",) if "9400" in equities else ()))
    return Case("DRAWDOWN_UNCONFIRMED", situation, ask, passes, observed, f"{needed}", "count", "account", also)


def _reached(limit: str, value: str, passes: bool, situation: str = "", **profile: Any) -> Case:
    """A drawdown of 1 % in day and week and from the high, under a limit that is tightened afterwards."""

    def ask() -> Said:
        desk = funded()
        assert desk.pnl("9900").locks == []
        desk.policy("profile/normal", {f"max_{limit.lower()}": value, "headroom": False, **profile})
        return desk.signal()

    code = f"{limit}_REACHED"
    return Case(code, f"limit {value}{situation}", ask, passes, "0.01", value, "fraction", "account")


DRAWDOWN = (
    _unconfirmed("none running", PASSES, "0"),
    _unconfirmed("one of three", FAILS, "1", "9700"),
    _unconfirmed("two of three", FAILS, "2", "9700", "9700"),
    _unconfirmed("reset by an update above the limit", PASSES, "0", "9700", "9700", "9900"),
    _unconfirmed("the highest of several", FAILS, "2", "9700", "9400"),
    _unconfirmed("one of two", FAILS, "1", "9800", needed=2),
    *(
        case
        for limit in ("DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN", "TRAILING_DRAWDOWN")
        for case in (
            _reached(limit, "0.010000000001", PASSES),
            _reached(limit, "0.01", FAILS),
            _reached(limit, "0.009999999999", FAILS),
            _reached(limit, "0.01", PASSES, " exceeded only", breach="exceed"),
            _reached(limit, "0.009999999999", FAILS, " exceeded", breach="exceed"),
        )
    ),
)

# -- size ----------------------------------------------------------------------------------------------------------


def _spot(situation: str, side: str, passes: bool, held: str | None = None, **fields: Any) -> Case:
    def ask() -> Said:
        desk = funded(profile="micro")
        if held is not None:
            desk.hold(held)
        stop = "99" if side == "buy" else "101"
        return desk.signal(**{"side": side, "stop_loss": stop, **fields})

    return Case("SPOT_ONLY", situation, ask, passes, side, "buy", "name", "signal")


def _asked(leverage: str, passes: bool) -> Case:
    def ask() -> Said:
        return funded().signal(leverage=leverage)

    return Case("LEVERAGE_EXCEEDED", f"asked {leverage}", ask, passes, leverage, "3", "multiple", "signal")


def _gross(situation: str, quantity: str, passes: bool, observed: str, desk: Callable[[], Desk] = funded) -> Case:
    def ask() -> Said:
        return desk().signal(quantity=quantity, stop_loss="99.999")

    return Case("LEVERAGE_EXCEEDED", situation, ask, passes, observed, "3", "multiple", "account")


def _marked(mark: str) -> Callable[[], Desk]:
    """100 BTC held, marked at ``mark``."""

    def desk() -> Desk:
        one = Desk().hold("100")
        one.pnl(marks={"BTC-USD": mark})
        return one

    return desk


def _working_200() -> Desk:
    desk = funded()
    desk.working(quantity="200", stop_loss="99.999")
    return desk


def _opposite_working_200() -> Desk:
    desk = funded()
    desk.working(side="sell", quantity="200", stop_loss="100.001")
    return desk


def _half_filled_200() -> Desk:
    desk = funded()
    order_id = desk.working(quantity="200", stop_loss="99.999")
    desk.fill(order_id=order_id, quantity="50", price="100", status="partially_filled")
    return desk


def _exit_working_200() -> Desk:
    desk = funded().hold("200")
    desk.working(side="sell", quantity="200", stop_loss=None)
    return desk


def _in_kroner() -> Desk:
    desk = Desk(account=_NOK, instruments={"BTC-USD": {"multiplier": "10"}})
    desk.pnl(rates={"USD": "8"})
    return desk


def _open_positions(situation: str, passes: bool, observed: str, limit: str, *held: str, **more: Any) -> Case:
    """``held`` instruments; ``working`` ones are only being entered; then BTC-USD is asked for."""

    def ask() -> Said:
        desk = funded(profiles={"normal": {"headroom": False}})
        for instrument in held:
            desk.hold("1", instrument=instrument)
        for instrument in more.get("working", ()):
            desk.working(instrument=instrument)
        if "lowered" in more:
            desk.policy("profile/normal", {"headroom": False, "max_open_positions": more["lowered"]})
        return desk.signal()

    return Case("MAX_OPEN_POSITIONS_EXCEEDED", situation, ask, passes, observed, limit, "count", "account")


_FOUR, _SIX = ("A-USD", "B-USD", "C-USD", "D-USD"), ("A-USD", "B-USD", "C-USD", "D-USD", "E-USD", "F-USD")

SIZE = (
    _spot("a buy", "buy", PASSES),
    _spot("a short", "sell", FAILS),
    _spot("more than is held", "sell", FAILS, held="1", quantity="1.000000000001"),
    _spot("another instrument is held", "sell", FAILS, held="1", instrument="ETH-USD"),
    _asked("2.999999999999", PASSES),
    _asked("3", PASSES),
    _asked("3.000000000001", FAILS),
    _gross("below", "299.99", PASSES, "2.9999"),
    _gross("at", "300", PASSES, "3"),
    _gross("above", "300.01", FAILS, "3.0001"),
    _gross("above by less than is shown", "300.000000000000001", FAILS, "3"),
    _gross("at, with a position", "100", PASSES, "3", lambda: funded().hold("200")),
    _gross("above, with a position", "100.01", FAILS, "3.0001", lambda: funded().hold("200")),
    _gross("a short counts as much", "100.01", FAILS, "3.0001", lambda: funded().hold("-200", instrument="ETH-USD")),
    _gross("mark above price", "100", PASSES, "2.2", _marked("110")),
    _gross("mark below price", "100", PASSES, "1.9", _marked("90")),
    _gross("at, with a working entry", "100", PASSES, "3", _working_200),
    _gross("above, with a working entry", "100.01", FAILS, "3.0001", _working_200),
    _gross("opposite working orders give no relief", "100.01", FAILS, "3.0001", _opposite_working_200),
    _gross("the part that is filled counts once", "100", PASSES, "3", _half_filled_200),
    _gross("working exits do not count", "100", PASSES, "3", _exit_working_200),
    _gross("multiplier and rate", "3.75", PASSES, "3", _in_kroner),
    _gross("multiplier and rate, above", "3.7501", FAILS, "3.00008", _in_kroner),
    _open_positions("four held", PASSES, "5", "6", *_FOUR),
    _open_positions("four held, one worked", PASSES, "6", "6", *_FOUR, working=("E-USD",)),
    _open_positions("six held", FAILS, "7", "6", *_SIX),
    _open_positions("four held, two worked", FAILS, "7", "6", *_FOUR, working=("E-USD", "F-USD")),
    _open_positions("worked twice", PASSES, "6", "6", *_FOUR, working=("E-USD", "E-USD")),
    _open_positions("worked where held", PASSES, "5", "6", *_FOUR, working=("A-USD",)),
    _open_positions("itself held", PASSES, "5", "6", *_FOUR, "BTC-USD"),
    _open_positions("lowered below what is held", FAILS, "5", "4", *_FOUR, "BTC-USD", lowered=4),
)

# -- stop, risk, headroom ------------------------------------------------------------------------------------------


def _stop(side: str, stop: str | None, passes: bool) -> Case:
    def ask() -> Said:
        return funded().signal(side=side, stop_loss=stop)

    return Case("STOP_LOSS_REQUIRED", f"{side}, stop {stop}", ask, passes, stop, "100", "amount", "signal")


def _risk(situation: str, passes: bool, observed: str, fields: dict[str, Any], **desk: Any) -> Case:
    def ask() -> Said:
        return funded(**desk).signal(**fields)

    return Case("TRADE_RISK_EXCEEDED", situation, ask, passes, observed, "0.01", "fraction", "signal")


def _room(
    situation: str, quantity: str, passes: bool, observed: str, limit: str, desk: Callable[[], Desk], **fields: Any
) -> Case:
    """Risks ``quantity`` in money: 1 from price to stop."""

    def ask() -> Said:
        return desk().signal(quantity=quantity, **fields)

    return Case("RISK_HEADROOM_EXCEEDED", situation, ask, passes, observed, limit, "amount", "account")


_TIGHT = {"profiles": {"normal": {"max_daily_drawdown": "0.015"}}}
_DEAR = {"fee_rate": "0.0005", "slippage": "0.001"}


def _stopless() -> Desk:
    """A position without a stop counts 1 % of equity: 100."""
    return funded(**_TIGHT).hold("1")


def _stopped(mark: str, side: str = "buy", **desk: Any) -> Callable[[], Desk]:
    """100 BTC filled at 100 by an order whose stop is 1 away, then marked."""

    def made() -> Desk:
        one = funded(**{**_TIGHT, **desk})
        stop = "99" if side == "buy" else "101"
        order_id = one.working(side=side, quantity="50", stop_loss=stop)
        one.fill(order_id=order_id, side=side, quantity="50")
        one.pnl(marks={"BTC-USD": mark})
        return one

    return made


def _reserved() -> Desk:
    desk = funded(**_TIGHT)
    desk.working(quantity="100")
    return desk


def _half_reserved() -> Desk:
    """100 reserved, of which 60 are filled: 60 at the stop's distance from the mark, 40 still to come."""
    desk = funded(**_TIGHT)
    order_id = desk.working(quantity="100")
    desk.fill(order_id=order_id, quantity="60", status="partially_filled")
    return desk


def _on_initial_capital() -> Desk:
    """2 % of 5,000: 100 may be lost."""
    return funded(account={"loss_basis": "initial", "initial_capital": "5000"})


RISK = (
    _stop("buy", "99.999999999999", PASSES),
    _stop("buy", "100", FAILS),
    _stop("buy", "100.000000000001", FAILS),
    _stop("buy", None, FAILS),
    _stop("sell", "100.000000000001", PASSES),
    _stop("sell", "100", FAILS),
    _stop("sell", "99.999999999999", FAILS),
    _stop("sell", None, FAILS),
    _risk("below", PASSES, "0.009999", {"quantity": "99.99"}),
    _risk("at", PASSES, "0.01", {"quantity": "100"}),
    _risk("above", FAILS, "0.010001", {"quantity": "100.01"}),
    _risk("above by less than is shown", FAILS, "0.01", {"quantity": "100.00000000000000001"}),
    _risk("of a sale", PASSES, "0.01", {"quantity": "50", "side": "sell", "stop_loss": "102"}),
    _risk("fees and slippage", PASSES, "0.0011995", {"quantity": "10"}, instruments={"BTC-USD": _DEAR}),
    _risk(
        "fees and slippage, multiplied",
        FAILS,
        "0.011995",
        {"quantity": "10"},
        instruments={"BTC-USD": {**_DEAR, "multiplier": "10"}},
    ),
    _room("below, beside a position without stop", "49.999999", PASSES, "149.999999", "150", _stopless),
    _room("at, beside a position without stop", "50", PASSES, "150", "150", _stopless),
    _room("above, beside a position without stop", "50.000001", FAILS, "150.000001", "150", _stopless),
    _room("from mark to stop", "50", PASSES, "150", "150", _stopped("101")),
    _room("from mark to stop, above", "50.01", FAILS, "150.01", "150", _stopped("101")),
    _room("a mark past the stop risks nothing more", "100", PASSES, "100", "150", _stopped("98")),
    _room("of a short", "50", PASSES, "150", "150", _stopped("99", "sell"), side="sell", stop_loss="101"),
    _room("at, beside a working entry", "50", PASSES, "150", "150", _reserved),
    _room("above, beside a working entry", "50.01", FAILS, "150.01", "150", _reserved),
    _room("partly filled", "50", PASSES, "150", "150", _half_reserved),
    _room("partly filled, above", "50.01", FAILS, "150.01", "150", _half_reserved),
    _room("the weekly floor is higher", "80", PASSES, "80", "80", lambda: _weekly("0.008")),
    _room("the weekly floor is higher, above", "80.01", FAILS, "80.01", "80", lambda: _weekly("0.008")),
    _room("on initial capital", "100", PASSES, "100", "100", _on_initial_capital),
    _room(
        "exit fees of a position",
        "1",
        PASSES,
        # The position: 50 × (1 + 0.0005 × 99); the order: 1 + 0.0005 × (100 + 99) + 0.001 × 100.
        "53.6745",
        "150",
        _stopped("100", instruments={"BTC-USD": _DEAR}),
    ),
)


def _weekly(limit: str) -> Desk:
    return funded(profiles={"normal": {"max_weekly_drawdown": limit}})


# -- where configured ----------------------------------------------------------------------------------------------


def _notional(situation: str, passes: bool, observed: str, desk: dict[str, Any] | None = None, **fields: Any) -> Case:
    def ask() -> Said:
        made = Desk(limits={"max_notional_per_order": "1000"}, **(desk or {}))
        made.pnl(marks={"ETH-USD": "110"}, rates={"USD": "8"})
        return made.signal(**fields)

    code = "NOTIONAL_EXCEEDS_MAX_PER_ORDER"
    return Case(code, situation, ask, passes, observed, "1000", "amount", "signal")


def _collar(situation: str, price: str, passes: bool, observed: str, *, from_fill: bool = False) -> Case:
    def ask() -> Said:
        desk = Desk(limits={"price_collar": "0.05"})
        desk.pnl(marks={} if from_fill else {"BTC-USD": "100"})
        if from_fill:
            desk.hold("1")
        return desk.signal(price=price, stop_loss="90")

    return Case("PRICE_COLLAR_EXCEEDED", situation, ask, passes, observed, "0.05", "fraction", "signal")


def _rate(situation: str, passes: bool, observed: str, ask: Callable[[Desk], Said]) -> Case:
    def asked() -> Said:
        return ask(funded(limits={"rate_limit": {"orders": 2, "per": "1s"}}))

    return Case("RATE_LIMIT_EXCEEDED", situation, asked, passes, observed, "2", "count", "account")


def _approved_then(times: int, later_s: float) -> Callable[[Desk], Said]:
    def ask(desk: Desk) -> Said:
        for _ in range(times):
            desk.working()
        return desk.later(seconds=later_s).signal()

    return ask


def _exits_then_entry(desk: Desk) -> Said:
    desk.hold("1")
    for _ in range(2):
        desk.working(side="sell", stop_loss=None, quantity="0.5")
    return desk.signal()


def _rejections_then_entry(desk: Desk) -> Said:
    for _ in range(3):
        assert desk.signal(stop_loss=None).codes == ["STOP_LOSS_REQUIRED"]
    return desk.signal()


CONFIGURED = (
    _notional("below", PASSES, "999.99", quantity="9.9999"),
    _notional("at", PASSES, "1000", quantity="10"),
    _notional("above", FAILS, "1000.01", quantity="10.0001"),
    _notional("at the mark, if that is higher", FAILS, "1001", quantity="9.1", instrument="ETH-USD"),
    _notional("in the account's currency", PASSES, "1000", {"account": _NOK}, quantity="1.25"),
    _notional("in the account's currency, above", FAILS, "1000.8", {"account": _NOK}, quantity="1.251"),
    _collar("below", "104.9999", PASSES, "0.049999"),
    _collar("at, above the mark", "105", PASSES, "0.05"),
    _collar("above", "105.0001", FAILS, "0.050001"),
    _collar("at, below the mark", "95", PASSES, "0.05"),
    _collar("further below the mark", "94.9999", FAILS, "0.050001"),
    _collar("around the last fill without a mark", "105.0001", FAILS, "0.050001", from_fill=True),
    _rate("first", PASSES, "1", _approved_then(0, 0)),
    _rate("second", PASSES, "2", _approved_then(1, 0)),
    _rate("third", FAILS, "3", _approved_then(2, 0)),
    _rate("just inside the window", FAILS, "3", _approved_then(2, 0.999)),
    _rate("as long ago as the window", PASSES, "1", _approved_then(2, 1)),
    _rate("approved exits count", FAILS, "3", _exits_then_entry),
    _rate("rejections do not", PASSES, "1", _rejections_then_entry),
)

RISK_CASES = (*EQUITY, *DRAWDOWN, *SIZE, *RISK, *CONFIGURED)
