"""What is reported of an order follows from the seed and its id, and ends it."""

from collections import Counter

from tests.chaos.executor import RELEASED, Report, reports_of

QUANTITY = 300_001


def _many(seed: int) -> list[list[Report]]:
    return [reports_of(seed, f"o-{number}", QUANTITY) for number in range(2_000)]


def test_the_same_order_comes_to_the_same(seed: int) -> None:
    assert _many(seed) == _many(seed)
    assert _many(seed) != _many(seed + 1)


def test_reports_come_in_order_and_one_ends_the_order(seed: int) -> None:
    for reports in _many(seed):
        assert [report.after for report in reports] == sorted({report.after for report in reports})
        in_time = [report for report in reports if not report.is_late]
        assert [report for report in reports if report.is_final] == [in_time[-1]]
        assert all((report.status == "partially_filled") != report.is_final for report in in_time)
        filled = sum(report.quantity for report in reports)
        if in_time[-1].status == "filled":
            assert filled in (QUANTITY, 2 * QUANTITY)
        else:
            assert filled in (0, QUANTITY // 3)


def test_every_fate_is_met_with(seed: int) -> None:
    fates = Counter(" ".join(report.status for report in reports) for reports in _many(seed))
    assert fates["filled"] > 1_000
    for fate in ("partially_filled filled", "partially_filled cancelled", "cancelled filled", RELEASED):
        assert fates[fate] >= 3, fates
    for unfilled in ("cancelled", "rejected", "expired"):
        assert fates[unfilled] > 30, fates
