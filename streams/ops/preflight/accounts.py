"""Checks of the accounts: configured, funded, marked, free to trade."""

from collections.abc import Callable
from decimal import Decimal

from streams.ops.preflight.check import Finding, check, failed, passed, some, warned
from streams.ops.preflight.context import Context
from streams.ops.terminal import percent

ACCOUNTS = "accounts"
_NEAR = Decimal("0.8")


@check(ACCOUNTS, "accounts-configured")
def configured(context: Context) -> Finding:
    """Accounts are configured."""
    count = len(context.rules.accounts)
    if not count:
        return failed(
            "no account is configured: every signal is rejected with UNKNOWN_ACCOUNT",
            "give the workers' own --config, with [accounts.…], or QT_ACCOUNT_<NAME>_EXCHANGE",
        )
    return passed(f"{count}: {some(context.rules.accounts)}")


@check(ACCOUNTS, "accounts-known")
def no_strangers(context: Context) -> Finding:
    """Nothing is held outside the configuration."""
    left = [one.account_id for one in context.strangers() if one.positions or one.orders]
    if left:
        return failed(
            f"positions or open orders, but not configured: {some(left)}",
            "configure them again: nobody watches their drawdown, and their exits are rejected",
        )
    return passed("every position and open order has its account configured")


@check(ACCOUNTS, "equity-known")
def equity_is_known(context: Context) -> Finding:
    """Every account has equity."""
    kept_for_drills = context.drill_accounts()
    missing = [
        one.account_id
        for one in context.accounts()
        if not one.has_equity and not (one.account_id in kept_for_drills and one.equity is None)
    ]
    return _unless(
        missing,
        lambda: failed(
            f"no usable equity: {some(missing)}",
            "let the portfolio publish pnl for them, and see dead-letters: entries are refused as RISK_DATA_MISSING",
        ),
        "usable in all of them",
    )


@check(ACCOUNTS, "equity-fresh")
def equity_is_fresh(context: Context) -> Finding:
    """Equity is fresh."""
    stale = [one.account_id for one in context.accounts() if one.is_stale]
    return _unless(
        stale,
        lambda: failed(
            f"older than limits.max_pnl_age: {some(stale)}",
            "see why their pnl has stopped: entries are refused as RISK_DATA_STALE, and no limit can lock",
        ),
        "none is older than limits.max_pnl_age",
    )


@check(ACCOUNTS, "equity-positive")
def equity_is_positive(context: Context) -> Finding:
    """Every account is funded."""
    empty = [one.account_id for one in context.accounts() if one.has_equity and (one.equity or 0) <= 0]
    return _unless(
        empty, lambda: failed(f"equity is not above 0: {some(empty)}", "fund them, or take them out"), "all above 0"
    )


@check(ACCOUNTS, "accounts-unlocked")
def unlocked(context: Context) -> Finding:
    """No account is locked."""
    locked = [
        f"{one.account_id} ({', '.join(lock.reason for lock in one.locks)})" for one in context.accounts() if one.locks
    ]
    return _unless(
        locked,
        lambda: warned(some(locked), "review, then `tidegate unlock ACCOUNT --dry-run` says what stands against it"),
        "none",
    )


@check(ACCOUNTS, "accounts-free")
def free_to_trade(context: Context) -> Finding:
    """No account is halted."""
    held = [
        f"{one.account_id} ({', '.join(causes)})"
        for one in context.accounts()
        if (causes := [cause for cause in one.causes if not cause.endswith("_DRAWDOWN") and cause != "MANUAL"])
    ]
    return _unless(
        held,
        lambda: warned(some(held), "`tidegate resume ACCOUNT --reason …` once positions are reconciled"),
        "none, and every fill could be used",
    )


@check(ACCOUNTS, "limits-far")
def far_from_limits(context: Context) -> Finding:
    """Drawdowns are far from their limits."""
    near = [
        f"{one.account_id} {line.name} {percent(line.drawdown)} of {percent(line.limit)} %"
        for one in context.accounts()
        for line in one.limits
        if line.drawdown is not None and line.drawdown >= line.limit * _NEAR
    ]
    return _unless(
        near, lambda: warned(some(near), "start smaller, or on another day: little more locks them"), "none above 80 %"
    )


@check(ACCOUNTS, "orders-answered")
def no_order_hangs(context: Context) -> Finding:
    """Executors report on their orders."""
    overdue = [
        order.order_id
        for one in context.accounts()
        for order in one.orders
        if order.valid_until_ms < context.now_ms - 60_000
    ]
    return _unless(
        overdue,
        lambda: warned(
            f"open a minute after valid_until: {some(overdue, 3)}",
            "ask the venue; if it has none, `tidegate order release ACCOUNT ORDER_ID --reason …` frees its risk",
        ),
        "none is open a minute after valid_until",
    )


@check(ACCOUNTS, "rates")
def currencies_convert(context: Context) -> Finding:
    """Currencies convert.

    Where an instrument is quoted in another currency than the account's, its rate has to be known.
    """
    snapshot = context.state.get().snapshot
    lacking: set[str] = set()
    for one in context.accounts():
        account = snapshot.account(one.account_id)
        if account is None or one.currency is None:
            continue
        quotes = {name.rpartition("-")[2] for name in (*account.drawdown.marks, *account.book.positions)}
        lacking |= {f"{one.account_id} {quote}" for quote in quotes - {one.currency} - set(account.drawdown.rates)}
    return _unless(
        sorted(lacking),
        lambda: failed(
            f"no rate: {some(lacking)}", "send pnl.rates for it: orders in it are refused as RISK_DATA_MISSING"
        ),
        "every rate is there that marks and positions need",
    )


def _unless(names: list[str], finding: Callable[[], Finding], otherwise: str) -> Finding:
    return finding() if names else passed(otherwise)


CHECKS = (
    configured,
    no_strangers,
    equity_is_known,
    equity_is_fresh,
    equity_is_positive,
    unlocked,
    free_to_trade,
    far_from_limits,
    no_order_hangs,
    currencies_convert,
)
