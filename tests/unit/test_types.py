"""The scalars of the wire: amounts, times, ids (contract, section 1 and fine print, *Reading*)."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.inputs import Pnl, read_fields
from schemas.types import SHORT_CUT, Amount, Id, Text, Time, read_amount, read_time, write_amount, write_time

# -- amounts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        ("1", "1"),
        ("+1.50", "1.50"),
        ("-0.1", "-0.1"),
        (".5", "0.5"),
        ("1e3", "1000"),
        ("1E+3", "1000"),
        ("12.5e-1", "1.25"),
        ("007", "7"),
        (7, "7"),
        (-7, "-7"),
        (Decimal("0.10"), "0.1"),
        ("0", "0"),
        ("-0", "0"),
        ("0e999999", "0"),
        (Decimal("0e-999999"), "0"),
        ("1e-30", "1e-30"),
        ("9.99e29", "9.99e29"),
        ("1234567890123456789012345678.901234567890", "1234567890123456789012345678.901234567890"),
        ("0." + "1" * 40, "0." + "1" * 40),
        (10**30 - 1, "999999999999999999999999999999"),
    ],
)
def test_read_amount(value: Any, amount: str) -> None:
    assert read_amount(value) == Decimal(amount)


@pytest.mark.parametrize("text", ["nan", "NaN", "-NAN", "inf", "+Inf", "-infinity", "INFINITY"])
def test_not_finite_amounts_are_read(text: str) -> None:
    assert not read_amount(text).is_finite()
    assert not read_amount(Decimal(text)).is_finite()


@pytest.mark.parametrize(
    "value",
    [
        *(
            "",
            "5.",
            " 1",
            "1 ",
            "1_000",
            "1,5",
            "0x10",
            "1e",
            "e5",
            ".",
            "+",
            "--1",
            "1.2.3",
            "١",
            "１",
            "½",
            "snan",
            "nan1",
        ),
        *("infinit", "1e30", "-1e30", "1e-31", "1e999999", "1e9999999", "1" * 41, "0." + "1" * 41, "0" * 65, "1\n"),
        *(True, False, None, 1.5, [], {}, b"1", 10**30, -(10**30), Decimal("1e30"), Decimal("1e-31"), Decimal("sNaN")),
        *(Decimal("1" * 41), Decimal("1e-999999")),
    ],
    ids=repr,
)
def test_unreadable_amounts(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^(is|has) "):
        read_amount(value)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("1", "1"),
        ("100", "100"),
        ("1E+3", "1000"),
        ("1.500", "1.5"),
        ("1.000", "1"),
        ("0", "0"),
        ("-0", "0"),
        ("0.000", "0"),
        ("1e-7", "0.0000001"),
        ("1e-12", "0.000000000001"),
        ("0.0000000000005", "0"),
        ("0.00000000000050000001", "0.000000000001"),
        ("0.0000000000015", "0.000000000002"),
        ("0.0000000000025", "0.000000000002"),
        ("-0.0000000000005", "0"),
        ("-1.5", "-1.5"),
        ("0.9999999999995", "1"),
        ("NaN", "NaN"),
        ("-NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("-Infinity", "-Infinity"),
        ("1e29", "1" + "0" * 29),
    ],
)
def test_write_amount(amount: str, text: str) -> None:
    assert write_amount(Decimal(amount)) == text


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**27), max_value=10**27, places=12))
def test_what_is_written_is_read_as_the_same_amount(amount: Decimal) -> None:
    text = write_amount(amount)
    assert "e" not in text.lower()
    assert read_amount(text) == amount


# -- times ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2017-12-19T11:00:00Z", "2017-12-19T11:00:00Z"),
        ("2017-12-19t11:00:00z", "2017-12-19T11:00:00Z"),
        ("2017-12-19 11:00:00Z", "2017-12-19T11:00:00Z"),
        ("2017-12-19T12:00:00+01:00", "2017-12-19T11:00:00Z"),
        ("2017-12-19T05:30:00-05:30", "2017-12-19T11:00:00Z"),
        ("2017-12-19T11:00:00-00:00", "2017-12-19T11:00:00Z"),
        ("2017-12-19T11:00:00.5Z", "2017-12-19T11:00:00.500Z"),
        ("2017-12-19T11:00:00.0009Z", "2017-12-19T11:00:00Z"),
        ("2017-12-19T11:00:00.123456789Z", "2017-12-19T11:00:00.123Z"),
        ("2017-12-19T11:00:00.9999999999Z", "2017-12-19T11:00:00.999Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
        ("2999-12-31T23:59:59.999Z", "2999-12-31T23:59:59.999Z"),
        ("2016-02-29T00:00:00Z", "2016-02-29T00:00:00Z"),
    ],
)
def test_times(text: str, written: str) -> None:
    assert write_time(read_time(text)) == written


@pytest.mark.parametrize(
    "value",
    [
        *("2017-12-19T11:00:00", "2017-12-19", "11:00:00Z", "20171219T110000Z", "2017-12-19T11:00Z", "now", ""),
        *("2017-12-19T11:00:00,5Z", "2017-12-19T11:00:00.Z", "2017-12-19T11:00:00+0100", "2017-12-19T11:00:00+01"),
        *("2017-02-29T00:00:00Z", "2017-12-19T24:00:00Z", "2017-12-19T11:60:00Z", "2017-12-19T11:00:60Z"),
        *("1969-12-31T23:59:59Z", "3000-01-01T00:00:00Z", "1970-01-01T00:00:00+01:00", "2017-12-19T11:00:00+24:00"),
        *(" 2017-12-19T11:00:00Z", "2017-12-19T11:00:00Z\n", "٢٠١٧-12-19T11:00:00Z", "2017-12-19_11:00:00Z"),
        *(0, 1513681200, 1513681200.5, True, None, [], {}),
    ],
    ids=repr,
)
def test_unreadable_times(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^is "):
        read_time(value)


@given(st.integers(min_value=0, max_value=32_503_679_999_999))
def test_milliseconds_come_back(milliseconds: int) -> None:
    assert read_time(write_time(milliseconds)) == milliseconds


# -- short cuts ----------------------------------------------------------------------------------------------------

_AMOUNTS = st.from_regex(r"[+-]?[0-9]{0,17}(\.[0-9]{0,14})?([eE][+-]?[0-9]{1,2})?[ \n]?", fullmatch=True)
_TIMES = st.from_regex(
    r"(19[67]|20|29|30)[0-9]{1,2}-[01][0-9]-[0-3][0-9][Tt ][012][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{0,8})?"
    r"([Zz]|\+0[0-2]:00)?\n?",
    fullmatch=True,
)


def outcome(read: Callable[[str], Any], text: str) -> str:
    """What is read, to the last zero; ``refused`` where nothing is."""
    try:
        return repr(read(text))
    except ValueError:
        return "refused"


@given(_AMOUNTS)
@example("0.00")
@example("-0")
@example("999999999999999.999999999999")
@example("1\n")
@example("٣")
def test_a_field_reads_the_amounts_that_read_amount_reads(text: str) -> None:
    assert outcome(TypeAdapter(Amount).validate_python, text) == outcome(read_amount, text)


@given(_TIMES)
@example("1970-01-01T00:00:00Z")
@example("1969-12-31T23:59:59.999Z")
@example("2999-12-31T23:59:59.9999999Z")
@example("3000-01-01T00:00:00Z")
@example("2017-02-29T00:00:00Z")
@example("2017-12-19T11:00:00Z\n")
@example("2017-12-19T11:00:00.1239Z")
def test_a_field_reads_the_times_that_read_time_reads(text: str) -> None:
    assert outcome(TypeAdapter(Time).validate_python, text) == outcome(read_time, text)


def test_what_is_wrong_is_said_in_the_words_of_the_whole_reader() -> None:
    raw = {
        "account_id": "a",
        "sequence": 1,
        "equity": "1_0",
        "marks": {SHORT_CUT: "x"},
        "as_of": "2017-02-30T00:00:00Z",
    }
    _, faults = read_fields(Pnl, raw)
    assert faults == {
        "equity": "'1_0' is not a decimal number; write it as a plain string such as '16500.25'",
        "marks": f"[{SHORT_CUT}] 'x' is not a decimal number; write it as a plain string such as '16500.25'",
        "as_of": "'2017-02-30T00:00:00Z' is not a date of the calendar; write it as '2017-12-19T11:00:00Z'",
    }


# -- ids and texts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["a", "x" * 256, "å" * 128, "𝛥" * 64, " ", "a b", "\n", "-"])
def test_ids(value: str) -> None:
    assert TypeAdapter(Id).validate_python(value) == value


@pytest.mark.parametrize("value", ["", "x" * 257, "å" * 129, "𝛥" * 65, "\ud800", "a\udfff", 1, None, True, b"a", []])
def test_unreadable_ids(value: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Id).validate_python(value)


@pytest.mark.parametrize(("size", "readable"), [(1024, True), (1025, False)])
def test_texts(size: int, readable: bool) -> None:
    for text in ("x" * size, "å" * (size // 2) + "x" * (size % 2)):
        if readable:
            assert TypeAdapter(Text).validate_python(text) == text
        else:
            with pytest.raises(ValidationError):
                TypeAdapter(Text).validate_python(text)
