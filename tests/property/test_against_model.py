"""The gate and the naive model say the same, output by output and state by state, whatever comes in.

The model was written from the contract by someone who had not read the core; it computes with fractions, and rounds
only where the fine print says so (a base that a cash flow leaves without an end in decimals). So nothing may differ,
not in the last place either.
"""

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.model.naive import NaiveGate
from tests.model.strategies import Record, generate, minimal
from tests.property.gate import Gate, Json

RECORDS = 120


@settings(max_examples=250, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_the_gate_and_the_model_agree(seed: int) -> None:
    config, records = generate(seed, RECORDS)
    if _difference(config, records) is None:
        return
    short = minimal(records, lambda kept: _difference(config, kept) is not None)
    note(f"generate({seed}, {RECORDS}); the shortest sequence that differs:")
    note("\n".join(str(record) for record in short))
    raise AssertionError(_difference(config, short))


def _difference(config: Json, records: list[Record]) -> str | None:
    """Where the two first differ; None if they do not."""
    gate, model = Gate(config), NaiveGate(config)
    for number, record in enumerate(records):
        ours = [_comparable(one) for one in gate.feed(record)]
        theirs = [
            _comparable(one)
            for one in model.feed(
                record.topic, record.value, key=record.key, timestamp_ms=record.timestamp_ms, offset=record.offset
            )
        ]
        states = [(gate.state_of(name), model.state_of(name)) for name in model.accounts]
        if ours != theirs or any(one != other for one, other in states):
            return f"record {number} {record}\ngate:  {ours}\nmodel: {theirs}\nstates (gate, model): {states}"
    return None


def _comparable(output: Json) -> Json:
    """Without the sentences for people, which are not part of the contract."""
    value = dict(output["value"])
    if output["topic"] == "dead-letters" or (output["topic"] == "account-events" and value["type"] != "PERIOD_CLOSED"):
        del value["detail"]
    return {"topic": output["topic"], "key": output["key"], "value": value}
