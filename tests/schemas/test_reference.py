"""The published reference: complete, generated, linked, and true."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
from pydantic import BaseModel

from schemas import config, config_meanings, inputs, meanings, outputs, reference
from schemas.config import LADDER, ConfigFile, ProfileSection
from schemas.inputs import Policy
from schemas.meanings import TOPICS
from schemas.reference import FOLDER, PARTS, example_of, lay_out, schema_of
from streams.core.decode import parse_object
from streams.core.guard import RULES
from streams.core.records import INPUTS, POLICIES, Record
from streams.core.rules import DEFAULT_PROFILES, apply_policy, rules_of
from tests.schemas.scenario import everything
from tests.schemas.story import told

HEADINGS = re.compile(r"^#+ (.+)$", re.MULTILINE)
EXAMPLES = {topic.name: example_of(topic.name) for topic in TOPICS}


# -- generated -----------------------------------------------------------------------------------------------------


def test_the_generated_files_are_those_of_the_models() -> None:
    assert [path.name for path in reference.drifted()] == [], "run python -m schemas.reference"


def test_check_names_a_file_that_differs_and_one_that_is_not_generated_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    (folder / "examples").mkdir(parents=True)
    for topic, example in EXAMPLES.items():
        (folder / "examples" / f"{topic}.json").write_text(lay_out(example), encoding="utf-8")
    monkeypatch.setattr(reference, "FOLDER", folder)
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    (folder / "README.md").write_text("edited by hand", encoding="utf-8")
    (folder / "json" / "gone.schema.json").write_text("{}", encoding="utf-8")
    assert reference.main(["--check"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "copy/README.md differs; run python -m schemas.reference",
        "copy/json/gone.schema.json differs; run python -m schemas.reference",
    ]
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    assert not (folder / "json" / "gone.schema.json").exists()


def test_every_link_of_the_page_leads_somewhere() -> None:
    page = reference.reference()
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) > 50
    for link in links:
        path, _, anchor = link.partition("#")
        assert (FOLDER / path).exists(), link
        if anchor:
            text = (FOLDER / path).read_text(encoding="utf-8") if path else page
            assert anchor in {_anchor(heading) for heading in HEADINGS.findall(text)}, link


def _anchor(heading: str) -> str:
    """As Git forges make them: lower case, punctuation dropped, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# -- complete ------------------------------------------------------------------------------------------------------


def test_every_topic_is_described() -> None:
    models: dict[str, type[BaseModel]] = {**inputs.MODELS, POLICIES: Policy, **outputs.MODELS}
    assert {topic.name: topic.model for topic in TOPICS} == models
    assert {topic.name for topic in TOPICS if topic.direction == "in"} == {*INPUTS, POLICIES}


@pytest.mark.parametrize("model", meanings.INPUT_FIELDS)
def test_every_input_field_has_a_meaning(model: type[BaseModel]) -> None:
    assert list(meanings.INPUT_FIELDS[model]) == list(model.model_fields)


@pytest.mark.parametrize("model", [*outputs.MODELS.values(), *PARTS])
def test_every_output_field_has_a_meaning_and_no_default(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.is_required(), name


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (meanings.CODES, outputs.RejectCode),
        (meanings.UNITS, outputs.Unit),
        (meanings.SCOPES, outputs.Scope),
        (meanings.LOCK_REASONS, outputs.LockReason),
        (meanings.TRADING_STATES, outputs.TradingState),
        (meanings.EVENTS, outputs.EventType),
        (meanings.DEAD_LETTERS, outputs.DeadLetterReason),
        (meanings.COMMANDS, inputs.CommandType),
    ],
)
def test_every_name_has_a_meaning(words: dict[str, Any], names: Any) -> None:
    assert tuple(words) == get_args(names)


def test_the_parts_of_records_are_all_described() -> None:
    used = {name for model in outputs.MODELS.values() for name in schema_of(model).get("$defs", {})}
    assert used == {part.__name__ for part in PARTS} - {"ClosedPeriod"}


def test_the_codes_marked_for_exits_are_those_that_the_gate_asks_of_exits() -> None:
    assert {name for name, code in meanings.CODES.items() if code.exits} == {rule.code for rule in RULES if rule.exits}


@pytest.mark.parametrize("section", config_meanings.CONFIG, ids=lambda section: section.header)
def test_every_configuration_key_has_a_meaning(section: config_meanings.Section) -> None:
    tables = config_meanings.CONFIG_TABLES if section.model is ConfigFile else ()
    assert {*section.keys, *tables} == set(section.model.model_fields)


def test_every_configuration_section_is_described() -> None:
    sections = {one for one in vars(config).values() if isinstance(one, type) and issubclass(one, config.Section)}
    assert {section.model for section in config_meanings.CONFIG} == sections - {config.Section}


def test_the_profiles_defaults_are_the_gates() -> None:
    assert tuple(config_meanings.PROFILES) == tuple(ProfileSection.model_fields)
    for name, shown in config_meanings.PROFILES.items():
        assert shown == tuple(_shown(getattr(DEFAULT_PROFILES[rung], name)) for rung in LADDER)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(str(one) for one in value)}]"
    if value is None:
        return "off"
    return str(value).lower() if isinstance(value, bool) else re.sub(r"(\.\d*?)0+$", r"\1", str(value))


@pytest.mark.parametrize("name", meanings.POLICIES)
def test_every_policy_name_that_is_described_is_one_that_the_gate_knows(name: str) -> None:
    named = name.replace("profile/P", "profile/low").replace("strategies/P", "strategies/low")
    value = json.dumps({"name": named, "rule": None}).encode()
    _, letter = apply_policy(rules_of(ConfigFile()), Record(POLICIES, 0, 0, 0, None, value))
    assert letter is None


# -- true ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_example_names_every_field_and_is_valid(topic: meanings.Topic) -> None:
    text = (FOLDER / "examples" / f"{topic.name}.json").read_text(encoding="utf-8")
    assert text == lay_out(EXAMPLES[topic.name])
    assert list(EXAMPLES[topic.name]) == list(topic.model.model_fields)
    if topic.direction == "in":
        raw, _ = parse_object(text.encode())
        topic.model.model_validate(raw)
    else:
        read = topic.model.model_validate_json(text)
        assert json.loads(read.model_dump_json()) == EXAMPLES[topic.name]


def test_the_examples_are_what_the_gate_makes_of_their_story() -> None:
    log = told(EXAMPLES)
    for topic in ("approved-orders", "rejected-signals", "account-locked", "dead-letters"):
        assert log.on(topic)[0].value == EXAMPLES[topic]
    unlocked = [event.value for event in log.on("account-events") if event.value["type"] == "UNLOCKED"]
    assert unlocked == [EXAMPLES["account-events"]]


def schema(topic: str) -> Any:
    written = json.loads((FOLDER / "json" / f"{topic}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(written)
    return jsonschema.Draft202012Validator(written, format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_example_is_valid_by_its_json_schema(topic: meanings.Topic) -> None:
    schema(topic.name).validate(EXAMPLES[topic.name])


@pytest.mark.parametrize("topic", outputs.MODELS)
def test_every_record_of_the_gate_is_valid_by_its_json_schema(topic: str) -> None:
    validator = schema(topic)
    for record in everything():
        if record.topic == topic:
            validator.validate(record.value)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(EXAMPLES[topic] | {"surprise": 1})
    for name in EXAMPLES[topic]:
        with pytest.raises(jsonschema.ValidationError):
            validator.validate({field: value for field, value in EXAMPLES[topic].items() if field != name})


@pytest.mark.parametrize("topic", [*INPUTS, POLICIES])
def test_the_json_schema_of_an_input_ignores_what_it_does_not_know_and_asks_for_what_is_required(topic: str) -> None:
    validator = schema(topic)
    validator.validate(EXAMPLES[topic] | {"surprise": 1})
    model = next(one.model for one in TOPICS if one.name == topic)
    for name, field in model.model_fields.items():
        without = {other: value for other, value in EXAMPLES[topic].items() if other != name}
        assert validator.is_valid(without) is not field.is_required(), name
