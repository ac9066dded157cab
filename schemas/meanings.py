"""The words of the wire reference that no model holds: what input fields, codes, events and reasons mean.

Tests hold every table here to be complete: a field or code without a meaning, or a meaning without one, fails.
"""

from typing import NamedTuple

from pydantic import BaseModel

from schemas import inputs, outputs


class Topic(NamedTuple):
    """One topic: its model, which way records go, what they are keyed by, and how they are kept."""

    name: str
    model: type[BaseModel]
    direction: str
    key: str
    kept: str


CO_PARTITIONED = "as many partitions as the other inputs"
TOPICS = (
    Topic("signals", inputs.Signal, "in", "account_id, or none if the strategy has a route", CO_PARTITIONED),
    Topic("fills", inputs.Fill, "in", "account_id", CO_PARTITIONED),
    Topic("pnl", inputs.Pnl, "in", "account_id", CO_PARTITIONED),
    Topic("controls", inputs.Command, "in", "account_id", CO_PARTITIONED),
    Topic("policies", inputs.Policy, "in", "the policy's name", "one partition, kept for ever"),
    Topic("approved-orders", outputs.ApprovedOrder, "out", "account_id", "any number of partitions"),
    Topic("rejected-signals", outputs.RejectedSignal, "out", "account_id", "any number of partitions"),
    Topic("account-locked", outputs.AccountLocked, "out", "account_id", "any number of partitions"),
    Topic("account-events", outputs.AccountEvent, "out", "account_id", "any number of partitions"),
    Topic("dead-letters", outputs.DeadLetter, "out", "the input's key", "any number of partitions"),
    Topic(
        "journal",
        outputs.Journal,
        "out",
        "none",
        "the inputs' partitions; named after the application: `tidegate-journal`",
    ),
)

INPUT_FIELDS: dict[type[BaseModel], dict[str, str]] = {
    inputs.Signal: {
        "signal_id": "Names the signal within its account. One decision each: a repeat gets a dead letter.",
        "account_id": "Who trades; absent: the account of the strategy's configured route.",
        "strategy_id": "Who asks; checked against blacklists and whitelists.",
        "instrument": "Such as `BTC-USD`; what follows the last `-` is its quote currency.",
        "side": "`buy` or `sell`.",
        "quantity": "To be traded, above 0.",
        "price": "Limit price, or the reference price of a market order; above 0.",
        "stop_loss": "Protective stop. Entries need one: below the price of a buy, above that of a sell.",
        "leverage": "Leverage asked for; above 0 and within the profile's.",
        "reduce_only": "True: refuse the order in every state unless it only reduces. Default false.",
        "venue": "Trade here or not at all (no failover). Absent: route, then primary, then failover; "
        "an exit goes to where its position is.",
        "created_at": "When it was made; at most `max_signal_age` before or after now.",
        "expires_at": "Not to be sent at or after this time.",
    },
    inputs.Fill: {
        "fill_id": "Names the report within its account; a repeat changes nothing.",
        "order_id": "Of the approved order. Null or unknown: traded by hand, or an opening balance; it still moves "
        "the position.",
        "account_id": "Whose fill.",
        "instrument": "As in the order.",
        "side": "`buy` or `sell`.",
        "venue": "Where it was traded; absent: the order's, else the account's primary.",
        "quantity": "What this report filled; 0 for a pure cancel.",
        "price": "Traded price, above 0. Required unless quantity is 0.",
        "fee": "Paid; negative for a rebate. Default 0.",
        "status": "State of the order after this report; all but `partially_filled` are final.",
        "filled_at": "When the venue traded.",
    },
    inputs.Pnl: {
        "account_id": "Whose equity.",
        "sequence": "Rises with every update of the account; one that does not is ignored.",
        "equity": "With unrealised profit, fees and funding.",
        "balance": "Without unrealised profit; required where the account's `base` is `balance` or `max`.",
        "cash_flow": "Deposit (+) or withdrawal (−) that equity contains since the previous update. Default 0.",
        "marks": "Price by instrument; what is not named keeps its last mark.",
        "rates": "Value of one unit of a currency in the account's, by currency; kept likewise.",
        "as_of": "When equity was measured; at most 5 s after now.",
    },
    inputs.Command: {
        "command_id": "Names the command within its account; a repeat changes nothing.",
        "account_id": "The account that it is for.",
        "type": "What to do.",
        "operator": "Who commands; not empty.",
        "approved_by": "A second operator, where `two_person` asks for one.",
        "reason": "Why; not empty.",
        "rebase": "Of `unlock`. `keep` (default): the bases stay, and no limit may be breached. "
        "`now`: the bases of the held reasons become the present equity.",
        "profile": "Of `set_profile`: the new profile. Of `unlock`: a lower one, optionally.",
        "order_id": "Of `release_order`: the open order that gives back what it reserves.",
        "down_only": "Of `set_profile`: refuse instead of moving up.",
        "issued_at": "When it was given.",
    },
    inputs.Policy: {
        "name": "Which rule; see the table below.",
        "rule": "The rule; it replaces the former of that name as a whole. Null removes it.",
        "operator": "Who; for people.",
        "approved_by": "The second operator of a change that loosens; for people.",
        "reason": "Why; for people.",
        "issued_at": "When; for people.",
        "expires_at": "When the change ends: `tidegate steward` then publishes `then` under the same name.",
        "then": "The rule after `expires_at`; null removes it.",
        "reverts": "Of the record that ends a change: that change's version. Where another change of the name has come "
        "since, the record does nothing.",
    },
}

COMMANDS: dict[str, str] = {
    "lock": "Lock the account (`MANUAL`): only orders that reduce pass. Answered by `account-locked`.",
    "unlock": "Clear all lock reasons at once, or be refused.",
    "set_profile": "Change the capital profile: down at any time, up by one rung and never while locked or breached.",
    "halt": "Let nothing pass, not even exits.",
    "resume": "End `halt` and the state that an unusable fill has set; never a lock.",
    "release_order": "Give back what an open order reserves, when its venue will never report it.",
}

POLICIES: dict[str, tuple[str, str]] = {
    "state/global": ('`{"state": "ACTIVE" | "REDUCING" | "HALTED"}`', "Trading state of everyone."),
    "state/venue/V": ("likewise", "Trading state of one venue."),
    "state/strategy/S": ("likewise", "Trading state of one strategy."),
    "venue/V": ('`{"up": true | false}`', "A venue that is down is failed over, or refused if the signal names it."),
    "profile/P": ("any keys of `[profiles.P]`", "Limits of one capital profile."),
    "strategies": ('`{"whitelist": […], "blacklist": […]}`', "Lists for all profiles."),
    "strategies/P": ("likewise", "Lists of one profile; keys that are not named stay as configured."),
    "rollout": (
        '`{"phase": …, "accounts": […] or null, "profiles": […] or null, "venues": […] or null}`',
        "Who may enter positions in the present phase; null: all.",
    ),
}


class Code(NamedTuple):
    """One reject code. ``exits``: it can refuse an order that only reduces, too."""

    refused: str
    observed: str
    limit: str
    units: tuple[str, ...]
    scopes: tuple[str, ...]
    exits: bool = False


_SIGNAL, _ACCOUNT, _ANY_STATE = ("signal",), ("account",), ("global", "venue", "strategy", "account")
_NAME, _AMOUNT, _FRACTION = ("name",), ("amount",), ("fraction",)
CODES: dict[str, Code] = {
    "INVALID_SIGNAL": Code("a field is missing or cannot be read", "the field's name", "–", _NAME, _SIGNAL, True),
    "UNKNOWN_ACCOUNT": Code("the account is not configured", "account_id", "–", _NAME, _ACCOUNT, True),
    "STALE_SIGNAL": Code(
        "it was created too long before or after now", "age", "`max_signal_age`", ("seconds",), _SIGNAL, True
    ),
    "EXPIRED_SIGNAL": Code("`expires_at` has come", "time left", "0", ("seconds",), _SIGNAL, True),
    "INVALID_PRICE": Code("price or stop is not finite, or not above 0", "that price", "0", _AMOUNT, _SIGNAL, True),
    "INVALID_QUANTITY": Code("quantity is not finite, or not above 0", "quantity", "0", _AMOUNT, _SIGNAL, True),
    "TRADING_HALTED": Code("a policy or `halt` lets nothing pass", "the trading state", "–", _NAME, _ANY_STATE, True),
    "TRADING_STATE_REDUCING": Code(
        "a policy or an unusable fill lets only exits pass", "the trading state", "–", _NAME, _ANY_STATE
    ),
    "ROLLOUT_PHASE": Code(
        "the present phase leaves out the account, its profile or the venue",
        "what is left out",
        "the phase",
        _NAME,
        ("global",),
    ),
    "ACCOUNT_LOCKED_DAILY_DRAWDOWN": Code(
        "the account is locked for its daily drawdown", "drawdown at the lock", "limit at the lock", _FRACTION, _ACCOUNT
    ),
    "ACCOUNT_LOCKED_WEEKLY_DRAWDOWN": Code(
        "… for its weekly drawdown", "drawdown at the lock", "limit at the lock", _FRACTION, _ACCOUNT
    ),
    "ACCOUNT_LOCKED_TRAILING_DRAWDOWN": Code(
        "… for its drawdown from the highest equity", "drawdown at the lock", "limit at the lock", _FRACTION, _ACCOUNT
    ),
    "ACCOUNT_LOCKED_MANUAL": Code("… by an operator", "–", "–", _NAME, _ACCOUNT),
    "REDUCE_ONLY_WOULD_INCREASE_POSITION": Code(
        "it is flagged `reduce_only` and would do more", "quantity", "what can be reduced", _AMOUNT, _SIGNAL, True
    ),
    "STRATEGY_BLACKLISTED": Code("the strategy is on a blacklist", "strategy_id", "–", _NAME, ("strategy",)),
    "STRATEGY_NOT_WHITELISTED": Code(
        "a whitelist applies and the strategy is not on it", "strategy_id", "–", _NAME, ("strategy",)
    ),
    "NO_VENUE": Code("no venue, or one that is not the account's", "the venue", "–", _NAME, ("venue",), True),
    "VENUE_UNAVAILABLE": Code(
        "the venue is down, and all it may fail over to", "the venue", "–", _NAME, ("venue",), True
    ),
    "RISK_DATA_MISSING": Code(
        "there is no usable equity, or no rate for a currency", "`equity` or the currency", "–", _NAME, _ACCOUNT
    ),
    "RISK_DATA_STALE": Code("equity is too old", "its age", "`max_pnl_age`", ("seconds",), _ACCOUNT),
    "DRAWDOWN_UNCONFIRMED": Code(
        "a limit was breached, but not often enough in a row to lock",
        "breaching updates",
        "`confirmations`",
        ("count",),
        _ACCOUNT,
    ),
    "DAILY_DRAWDOWN_REACHED": Code(
        "the daily limit, tightened since, is breached", "drawdown", "`max_daily_drawdown`", _FRACTION, _ACCOUNT
    ),
    "WEEKLY_DRAWDOWN_REACHED": Code("… the weekly limit", "drawdown", "`max_weekly_drawdown`", _FRACTION, _ACCOUNT),
    "TRAILING_DRAWDOWN_REACHED": Code(
        "… the trailing limit", "drawdown", "`max_trailing_drawdown`", _FRACTION, _ACCOUNT
    ),
    "SPOT_ONLY": Code("it would open or enlarge a short in a spot-only profile", "side", "`buy`", _NAME, _SIGNAL),
    "LEVERAGE_EXCEEDED": Code(
        "asked leverage (scope signal) or gross notional over equity (scope account) is too high",
        "leverage",
        "`max_leverage`",
        ("multiple",),
        ("signal", "account"),
    ),
    "MAX_OPEN_POSITIONS_EXCEEDED": Code(
        "too many instruments would be held or entered", "instruments", "`max_open_positions`", ("count",), _ACCOUNT
    ),
    "STOP_LOSS_REQUIRED": Code(
        "no stop, or one on the wrong side of the price", "stop_loss", "price", _AMOUNT, _SIGNAL
    ),
    "TRADE_RISK_EXCEEDED": Code(
        "the trade may lose too much of equity", "risk / equity", "`max_trade_risk`", _FRACTION, _SIGNAL
    ),
    "RISK_HEADROOM_EXCEEDED": Code(
        "all that is at risk would not fit above the drawdown floor",
        "risk with this trade",
        "equity − floor",
        _AMOUNT,
        _ACCOUNT,
    ),
    "NOTIONAL_EXCEEDS_MAX_PER_ORDER": Code(
        "the order is too large", "notional", "`max_notional_per_order`", _AMOUNT, _SIGNAL
    ),
    "PRICE_COLLAR_EXCEEDED": Code(
        "the price is too far from the mark", "\\|price / mark − 1\\|", "`price_collar`", _FRACTION, _SIGNAL
    ),
    "RATE_LIMIT_EXCEEDED": Code(
        "too many approvals within `per`", "approvals with this one", "`orders`", ("count",), _ACCOUNT
    ),
}

UNITS: dict[str, str] = {
    "fraction": "of equity, base or price: `0.02` is 2 %",
    "multiple": "of equity",
    "count": "a whole number",
    "amount": "a price, a quantity, or money in the account's currency, as the code says",
    "seconds": "with up to three places",
    "name": "no figure: a field, venue, state, side …",
}

SCOPES: dict[str, str] = {
    "global": "a rule for everyone",
    "venue": "a rule of the venue",
    "strategy": "a rule of the strategy",
    "account": "the account's state or limits",
    "signal": "the signal itself",
}

LOCK_REASONS: dict[str, str] = {
    "DAILY_DRAWDOWN": "Loss since the start of the day reached `max_daily_drawdown`.",
    "WEEKLY_DRAWDOWN": "Loss since the start of the week reached `max_weekly_drawdown`.",
    "TRAILING_DRAWDOWN": "Loss from the highest equity ever seen reached `max_trailing_drawdown`.",
    "MANUAL": "An operator locked the account.",
}

TRADING_STATES: dict[str, str] = {
    "ACTIVE": "Everything that passes the checks.",
    "REDUCING": "Only orders that reduce a position.",
    "HALTED": "Nothing.",
}


class Event(NamedTuple):
    """One type of ``account-events``."""

    happened: str
    observed: str = "–"
    limit: str = "–"
    units: tuple[str, ...] = ()


EVENTS: dict[str, Event] = {
    "UNLOCKED": Event("An `unlock` cleared all lock reasons."),
    "HALTED": Event("A `halt`: nothing passes."),
    "RESUMED": Event("A `resume` ended `halt` and an unusable fill's state."),
    "PROFILE_CHANGED": Event("The capital profile was set."),
    "WARNING": Event(
        "Drawdown crossed a tier of a limit (once per tier, limit and period); or, with `order_id`, an order is past "
        "its `valid_until` and still reserves.",
        "drawdown; seconds past",
        "the full limit; 0",
        ("fraction", "seconds"),
    ),
    "ORDER_RELEASED": Event("A `release_order` gave back what an order reserved."),
    "OVERFILL": Event("More was filled than ordered. The position moved.", "total filled", "ordered", ("amount",)),
    "LATE_FILL": Event("A fill of a closed order. The position moved.", "filled", "–", ("amount",)),
    "UNKNOWN_ORDER": Event(
        "A fill of an order that the gate never approved, or forgot. The position moved.", "filled", "–", ("amount",)
    ),
    "FILL_UNUSABLE": Event(
        "A fill could not be used (its dead letter says why): the position is in doubt, only exits pass until `resume`."
    ),
    "PERIOD_CLOSED": Event(
        "A day or a week ended; `detail` holds its figures.", "drawdown at the close", "its limit", ("fraction",)
    ),
}

DEAD_LETTERS: dict[str, str] = {
    "MALFORMED": "The value is absent, not UTF-8, not JSON, not an object, or nested deeper than 100 levels.",
    "SCHEMA": "A field that handling needs is missing or cannot be read; `detail` names it.",
    "TOO_OLD": "A signal or fill older than `dedup_horizon`: not decided, not applied.",
    "DUPLICATE_SIGNAL": "The `signal_id` was decided already; `first_id` is its order, or itself if it was rejected.",
    "DUPLICATE_FILL": "The `fill_id` was applied already.",
    "DUPLICATE_COMMAND": "The `command_id` was used already, done or refused.",
    "STALE_SEQUENCE": "A `pnl` whose `sequence` is not above the account's last.",
    "UNKNOWN_ACCOUNT": "The account is not configured (a signal is rejected instead), or a signal has no route.",
    "COMMAND_REFUSED": "The command was not done; `detail` says why and what would help.",
    "POLICY_UNUSABLE": "The rule cannot be used: the old one holds; a `state/…` becomes `HALTED`.",
}
