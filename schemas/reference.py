"""The wire reference, generated: ``schemas/README.md`` and the JSON Schemas in ``schemas/json``.

``python -m schemas.reference`` writes them; with ``--check`` it writes nothing and exits with 1 if one of them differs
from what the models say. Fields, types and defaults come from the models; their meanings from the models' field
descriptions (outputs) and from :mod:`schemas.meanings` and :mod:`schemas.config_meanings`; examples from
``schemas/examples``.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from schemas import inputs, meanings, outputs
from schemas.config import LADDER, ProfileSection
from schemas.config_meanings import CONFIG, PROFILES
from schemas.meanings import TOPICS, Topic
from schemas.prose import COMPATIBILITY, CONFIGURATION, CONVENTIONS, HEAD, READING, REJECT_CODES
from schemas.types import ID_BYTES_MAX, TEXT_BYTES_MAX

FOLDER = Path(__file__).parent
DIALECT = "https://json-schema.org/draft/2020-12/schema"
PARTS = (
    outputs.Basis,
    outputs.Reason,
    outputs.CheckResult,
    outputs.OpenOrder,
    outputs.PositionLine,
    outputs.ClosedPeriod,
)
NAMED_SETS: dict[tuple[str, ...], str] = {
    get_args(outputs.RejectCode): "[reject code](#reject-codes)",
    get_args(outputs.LockReason): "[lock reason](#lock-reasons)",
    get_args(outputs.EventType): "[event type](#event-types)",
    get_args(outputs.DeadLetterReason): "[reason](#dead-letter-reasons)",
    get_args(outputs.TradingState): "[trading state](#trading-states)",
    get_args(outputs.Unit): "[unit](#units)",
    get_args(outputs.Scope): "[scope](#scopes)",
    get_args(inputs.CommandType): "[command](#commands)",
}
_HOURS_MS, _SECONDS_MS = 3_600_000, 1000

# -- JSON Schema ---------------------------------------------------------------------------------------------------


class _Untitled(GenerateJsonSchema):
    """Without a title for every field, which would only repeat its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's signature
        return False


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a record: what is accepted of inputs, what is written of outputs; fields with meanings."""
    mode = "validation" if issubclass(model, inputs.Input) else "serialization"
    schema = model.model_json_schema(schema_generator=_Untitled, mode=mode)  # type: ignore[arg-type]
    for name, meaning in meanings.INPUT_FIELDS.get(model, {}).items():
        schema["properties"][name] |= {"description": meaning}
    schema = {"$schema": DIALECT, "title": schema.pop("title"), **schema}
    for part in (schema, *schema.get("$defs", {}).values()):
        part["description"] = _plain(part["description"])
    return schema


def _plain(docstring: str) -> str:
    return " ".join(docstring.replace("``", "`").split())


# -- tables --------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def type_of(schema: dict[str, Any]) -> str:
    """How a person would call the type of a field, from its JSON Schema; null is told elsewhere."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        values = tuple(schema["enum"])
        return NAMED_SETS.get(values) or ", ".join(f"`{value}`" for value in values)
    if "anyOf" in schema:
        kinds = [one for one in schema["anyOf"] if one.get("type") != "null"]
        return "amount" if len(kinds) > 1 else type_of(kinds[0])
    if schema["type"] == "string":
        return _string_type(schema)
    if schema["type"] == "array":
        return f"list of {type_of(schema['items'])}" if "items" in schema else "[first, last]"
    if schema["type"] == "object":
        members = schema.get("additionalProperties")
        return f"object: name → {type_of(members)}" if isinstance(members, dict) and members else "object"
    return {"integer": "integer", "boolean": "true, false"}[schema["type"]]


def _string_type(schema: dict[str, Any]) -> str:
    lengths = {ID_BYTES_MAX: "id", TEXT_BYTES_MAX: "text"}
    formats = {"decimal": "amount", "date-time": "time"}
    return formats.get(schema.get("format", "")) or lengths.get(schema.get("maxLength", 0), "text")


def fields_table(model: type[BaseModel]) -> str:
    """Name, type, presence and meaning of every field."""
    schema = schema_of(model)
    required = schema.get("required", ())
    is_input = issubclass(model, inputs.Input)
    rows = []
    for name, field in schema["properties"].items():
        nullable = any(one.get("type") == "null" for one in field.get("anyOf", ()))
        if is_input:
            marked = "no" if name not in required else "yes, or null" if nullable else "yes"
        else:
            marked = "yes" if nullable else ""
        rows.append((f"`{name}`", type_of(field), marked, field["description"]))
    return table(("field", "type", "required" if is_input else "may be null", "meaning"), rows)


def lay_out(value: dict[str, Any]) -> str:
    """A record for reading: a line for each field, and for each item of a list of objects."""
    lines = []
    for name, field in value.items():
        text = _compact(field)
        if isinstance(field, list) and field and isinstance(field[0], dict):
            text = "[\n    " + ",\n    ".join(_compact(item) for item in field) + "\n  ]"
        lines.append(f"  {_compact(name)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def example_of(topic: str) -> dict[str, Any]:
    """The published example of a topic."""
    example: dict[str, Any] = json.loads((FOLDER / "examples" / f"{topic}.json").read_text(encoding="utf-8"))
    return example


# -- chapters ------------------------------------------------------------------------------------------------------


def reference() -> str:
    """The whole page."""
    return "\n".join(
        (
            HEAD,
            _overview(),
            CONVENTIONS,
            READING,
            "## What Tidegate reads\n",
            *(_topic(topic) for topic in TOPICS if topic.direction == "in"),
            "## What Tidegate writes\n",
            *(_topic(topic) for topic in TOPICS if topic.direction == "out"),
            "## Parts of records\n",
            *(_part(model) for model in PARTS),
            "## Names\n",
            *_names(),
            CONFIGURATION,
            *_configuration(),
            COMPATIBILITY,
        )
    )


def _overview() -> str:
    rows = (
        (
            f"[`{one.name}`](#{one.name})",
            one.direction,
            one.key,
            _what(one.model),
            f"[schema](json/{one.name}.schema.json)",
        )
        for one in TOPICS
    )
    return "## Topics\n\n" + table(("topic", "direction", "key", "what", "JSON Schema"), rows)


def _what(model: type[BaseModel]) -> str:
    return _plain(model.__doc__ or "")


def _topic(topic: Topic) -> str:
    direction = "Read by Tidegate" if topic.direction == "in" else "Written by Tidegate"
    facts = (
        direction,
        f"key: {topic.key}",
        topic.kept,
        f"model: `{topic.model.__module__}.{topic.model.__name__}`",
        f"[JSON Schema](json/{topic.name}.schema.json)",
    )
    lines = [
        f"### {topic.name}\n",
        _what(topic.model) + "\n",
        " · ".join(facts) + "\n",
        fields_table(topic.model),
        f"```json\n{lay_out(example_of(topic.name))}```\n",
    ]
    if topic.name == "controls":
        rows = ((f"`{name}`", meaning) for name, meaning in meanings.COMMANDS.items())
        lines.append("#### Commands\n\n" + table(("type", "what it does"), rows))
    if topic.name == "policies":
        rules = ((f"`{name}`", _piped(rule), meaning) for name, (rule, meaning) in meanings.POLICIES.items())
        lines.append("#### Policy names\n\n" + table(("name", "rule", "what it rules"), rules))
    return "\n".join(lines)


def _piped(text: str) -> str:
    return text.replace("|", "\\|")


def _part(model: type[BaseModel]) -> str:
    return f"### {model.__name__}\n\n{_what(model)}\n\n{fields_table(model)}"


def _names() -> Iterator[str]:
    yield REJECT_CODES
    yield table(
        ("code", "refused because", "observed", "limit", "unit", "scope"),
        (
            (
                f"`{name}`{' †' if code.exits else ''}",
                code.refused,
                code.observed,
                code.limit,
                ", ".join(code.units),
                ", ".join(code.scopes),
            )
            for name, code in meanings.CODES.items()
        ),
    )
    for title, head, words in (
        ("Units", ("unit", "what figures are in it"), meanings.UNITS),
        ("Scopes", ("scope", "whose rule it is"), meanings.SCOPES),
        ("Lock reasons", ("reason", "why the account is locked"), meanings.LOCK_REASONS),
        ("Trading states", ("state", "what passes"), meanings.TRADING_STATES),
    ):
        yield f"### {title}\n\n" + table(head, ((f"`{name}`", meaning) for name, meaning in words.items()))
    yield "### Event types\n\n" + table(
        ("type", "what happened", "observed", "limit", "unit"),
        (
            (f"`{name}`", one.happened, one.observed, one.limit, ", ".join(one.units) or "–")
            for name, one in meanings.EVENTS.items()
        ),
    )
    yield "### Dead-letter reasons\n\n" + table(
        ("reason", "why"), ((f"`{name}`", meaning) for name, meaning in meanings.DEAD_LETTERS.items())
    )


def _configuration() -> Iterator[str]:
    for section in CONFIG:
        keys = {name: words for name, words in section.keys.items() if words[0] != "table"}
        by_profile = section.model is ProfileSection
        head = ("key", "value", *(LADDER if by_profile else ("default",)), "meaning")
        rows: list[Sequence[str]] = []
        for name, (how, meaning) in keys.items():
            default = default_of(section.model.model_fields[name], how)
            rows.append((f"`{name}`", how, *(PROFILES[name] if by_profile else (default,)), meaning))
        yield f"#### `{section.header}`\n\n{table(head, rows)}"


def default_of(field: FieldInfo, how: str) -> str:
    """A key's default as it would be written in the file."""
    if field.is_required():
        return "required"
    default = field.default
    if default is None:
        return "–"
    if how == "duration":
        return f'`"{_duration(default)}"`'
    if how == "`HH:MM`":
        return f'`"{default // 60:02}:{default % 60:02}"`'
    if isinstance(default, tuple):
        return "`[]`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f'`"{default}"`' if isinstance(default, str | Decimal) else f"`{default}`"


def _duration(milliseconds: int) -> str:
    if milliseconds % _HOURS_MS == 0:
        return f"{milliseconds // _HOURS_MS}h"
    if milliseconds % _SECONDS_MS == 0:
        return f"{milliseconds // _SECONDS_MS}s"
    return f"{milliseconds}ms"


# -- files ---------------------------------------------------------------------------------------------------------


def files() -> dict[Path, str]:
    """Every generated file with its content."""
    generated = {FOLDER / "README.md": reference()}
    for topic in TOPICS:
        text = json.dumps(schema_of(topic.model), indent=2, ensure_ascii=False) + "\n"
        generated[FOLDER / "json" / f"{topic.name}.schema.json"] = text
    return generated


def drifted() -> list[Path]:
    """Generated files that are missing, differ from what the models say, or are not generated any more."""
    wanted = files()
    stray = [path for path in (FOLDER / "json").glob("*") if path not in wanted]
    differing = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    return differing + stray


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or check them. Returns the exit status: 1 if a checked file differs."""
    parser = argparse.ArgumentParser(prog="python -m schemas.reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file differs")
    if parser.parse_args(arguments).check:
        for path in drifted():
            sys.stdout.write(f"{path.relative_to(FOLDER.parent)} differs; run python -m schemas.reference\n")
        return 1 if drifted() else 0
    for path in drifted():
        if path not in files():
            path.unlink()
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
