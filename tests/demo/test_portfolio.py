from decimal import Decimal

from streams.demo.portfolio import Portfolio

PRICES = {"BTC-USD": Decimal(120), "EUR-USD": Decimal("1.2")}


def book(
    portfolio: Portfolio, side: str, quantity: str, price: str, *, fee: str = "0", stop: str | None = None
) -> None:
    portfolio.apply(
        "BTC-USD", side, Decimal(quantity), Decimal(price), Decimal(fee), None if stop is None else Decimal(stop)
    )


def test_equity_counts_cash_positions_and_fees() -> None:
    portfolio = Portfolio(Decimal(1000))
    book(portfolio, "buy", "2", "100", fee="1.5", stop="90")
    assert portfolio.cash == Decimal("798.5")
    assert portfolio.equity(PRICES) == Decimal("1038.5")
    assert portfolio.position("BTC-USD").stop == 90


def test_adding_averages_and_reducing_keeps_the_average() -> None:
    portfolio = Portfolio(Decimal(1000))
    book(portfolio, "buy", "1", "100", stop="90")
    book(portfolio, "buy", "3", "110", stop="99")
    assert portfolio.position("BTC-USD").average == Decimal("107.5")
    assert portfolio.position("BTC-USD").stop == 99
    book(portfolio, "sell", "1", "120")
    assert portfolio.position("BTC-USD").quantity == 3
    assert portfolio.position("BTC-USD").average == Decimal("107.5")


def test_flat_forgets_and_a_flip_starts_anew() -> None:
    portfolio = Portfolio(Decimal(1000))
    book(portfolio, "sell", "1", "100", stop="105")
    assert portfolio.equity(PRICES) == 980
    book(portfolio, "buy", "1", "100")
    assert portfolio.is_flat
    assert portfolio.position("BTC-USD").stop is None
    book(portfolio, "buy", "1", "100", stop="95")
    book(portfolio, "sell", "3", "130", stop="140")
    assert portfolio.position("BTC-USD").quantity == -2
    assert portfolio.position("BTC-USD").average == 130
    assert portfolio.position("BTC-USD").stop == 140
