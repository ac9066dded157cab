import hashlib
import re
from decimal import Decimal
from importlib import resources

import pytest

from streams.demo.market import FILES, HOUR_MS, Bar, hours, path, ticks, time_ms, time_text


def test_bitcoin_trades_every_hour_and_the_euro_rests_at_weekends() -> None:
    month = hours()
    assert len(month) == 744
    assert all("BTC-USD" in hour.bars for hour in month)
    saturday = [hour for hour in month if time_text(hour.start_ms).startswith("2017-12-09")]
    assert len(saturday) == 24
    assert all("EUR-USD" not in hour.bars for hour in saturday)


def test_the_data_is_what_its_notice_says() -> None:
    data = resources.files("streams.demo").joinpath("data")
    notice = data.joinpath("NOTICE.md").read_text(encoding="utf-8")
    for name in FILES.values():
        digest = hashlib.sha256(data.joinpath(name).read_bytes()).hexdigest()
        assert re.search(rf"`{name}`.*{digest}", notice), name


@pytest.mark.parametrize(
    ("close", "expected"),
    [("11", ("10", "8", "12")), ("10", ("10", "8", "12")), ("9", ("10", "12", "8"))],
    ids=["rising", "flat", "falling"],
)
def test_a_bar_is_read_in_the_usual_order(close: str, expected: tuple[str, str, str]) -> None:
    bar = Bar(0, Decimal(10), Decimal(12), Decimal(8), Decimal(close))
    assert path(bar) == tuple(map(Decimal, expected))


def test_ticks_run_forward_and_end_at_the_last_close() -> None:
    month = hours(30)
    seen = list(ticks(month))
    assert len(seen) == 30 * 3 + 1
    times = [tick.at_ms for tick in seen]
    assert times == sorted(set(times))
    assert seen[-1].at_ms == month[-1].start_ms + HOUR_MS
    assert seen[-1].prices["BTC-USD"] == month[-1].bars["BTC-USD"].close
    assert not seen[-1].trading


def test_a_closed_market_keeps_its_last_price() -> None:
    closed = [tick for tick in ticks(hours(72)) if tick.trading == frozenset({"BTC-USD"})]
    assert closed
    friday = [
        hour.bars["EUR-USD"].close for hour in hours(72) if "EUR-USD" in hour.bars and hour.start_ms < closed[0].at_ms
    ]
    assert closed[0].prices["EUR-USD"] == friday[-1]


def test_times_round_trip_and_naive_ones_are_refused() -> None:
    assert time_text(1_512_086_400_000) == "2017-12-01T00:00:00Z"
    assert time_text(1_512_086_400_250) == "2017-12-01T00:00:00.250Z"
    assert time_ms("2017-12-01T01:00:00.250+01:00") == 1_512_086_400_250
    with pytest.raises(ValueError, match="offset"):
        time_ms("2017-12-01T00:00:00")
