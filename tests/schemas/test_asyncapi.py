"""The AsyncAPI document: generated, valid by the official schema, and at one with the roles and the JSON Schemas."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from schemas import asyncapi
from schemas.meanings import TOPICS
from schemas.reference import FOLDER
from schemas.roles import EVERY_TOPIC, INPUTS, OUTPUTS, ROLES
from streams.core import records
from streams.runtime.topics import CO_PARTITIONED, TopicNames

OFFICIAL = Path(__file__).parent / "asyncapi" / "3.0.0.json"


@pytest.fixture(scope="module")
def written() -> Any:
    return json.loads((FOLDER / asyncapi.FILE).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def official() -> Any:
    return jsonschema.Draft7Validator(json.loads(OFFICIAL.read_text(encoding="utf-8")))


# -- generated -----------------------------------------------------------------------------------------------------


def test_the_committed_document_is_that_of_the_models() -> None:
    assert asyncapi.main(["--check"]) == 0, "run python -m schemas.asyncapi"


def test_check_says_when_it_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(asyncapi, "FOLDER", tmp_path)
    assert asyncapi.main(["--check"]) == 1
    assert asyncapi.main([]) == 0
    assert asyncapi.main(["--check"]) == 0
    (tmp_path / asyncapi.FILE).write_text("{}")
    assert asyncapi.main(["--check"]) == 1
    assert (
        capsys.readouterr().out.splitlines()
        == [f"{tmp_path.name}/asyncapi.json differs; run python -m schemas.asyncapi"] * 2
    )


# -- valid ---------------------------------------------------------------------------------------------------------


def test_it_is_valid_by_the_official_schema(written: Any, official: Any) -> None:
    assert [f"{'/'.join(map(str, error.path))}: {error.message}" for error in official.iter_errors(written)] == []


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("asyncapi",), "2.6.0"),
        (("channels", "signals", "surprise"), 1),
        (("channels", "signals", "bindings", "kafka", "partitions"), 0),
        (("channels", "signals", "bindings", "kafka", "topicConfiguration", "cleanup.policy"), ["shred"]),
        (("operations", "pipeline-sends-signals", "action"), "publish"),
        (("operations", "pipeline-sends-signals", "channel"), "signals"),
        (("components", "messages", "signals", "bindings", "kafka", "key"), 1),
        (("components", "securitySchemes", "scram", "type"), "password"),
    ],
    ids=lambda value: "/".join(value) if isinstance(value, tuple) else "",
)
def test_the_official_schema_would_see_a_fault(
    written: Any, official: Any, where: tuple[str, ...], value: object
) -> None:
    broken = copy.deepcopy(written)
    place = broken
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    assert list(official.iter_errors(broken))


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(part, list):
        for one in part:
            yield from references(one)


def test_every_reference_leads_somewhere(written: Any) -> None:
    found = set(references({key: part for key, part in written.items() if key != "examples"}))
    assert len(found) > 30
    for reference in found:
        path, _, pointer = reference.partition("#")
        place = json.loads((FOLDER / path).read_text(encoding="utf-8")) if path else written
        for key in filter(None, pointer.split("/")):
            place = place[key]


def test_every_example_is_valid_by_the_schema_that_its_message_references(written: Any) -> None:
    for name, message in written["components"]["messages"].items():
        schema = json.loads((FOLDER / message["payload"]["schema"]["$ref"]).read_text(encoding="utf-8"))
        assert message["payload"]["schemaFormat"].endswith("2020-12")
        assert "2020-12" in schema["$schema"]
        assert len(message["examples"]) == 1, name
        jsonschema.Draft202012Validator(schema).validate(message["examples"][0]["payload"])


# -- true ----------------------------------------------------------------------------------------------------------


def test_there_is_a_channel_and_a_message_for_every_topic(written: Any) -> None:
    assert list(written["channels"]) == [topic.name for topic in TOPICS] == list(written["components"]["messages"])
    for name, channel in written["channels"].items():
        prefix = channel["parameters"]["prefix"]["default"]
        assert channel["address"].replace("{prefix}", prefix) == TopicNames().physical(name)


def test_the_roles_know_every_topic_of_the_gate() -> None:
    assert set(INPUTS) == set(records.INPUTS)
    assert set(OUTPUTS) == set(records.OUTPUTS)
    for topic in EVERY_TOPIC:
        assert TopicNames().logical(TopicNames().physical(topic)) == topic
    assert {TopicNames().physical(topic) for topic in EVERY_TOPIC} >= set(TopicNames().all())
    assert {topic for role in ROLES.values() for topic in (*role.reads, *role.writes)} <= set(EVERY_TOPIC)


def test_the_operations_are_those_of_the_roles(written: Any) -> None:
    told: dict[str, dict[str, set[str]]] = {}
    for name, operation in written["operations"].items():
        (tag,) = operation["tags"]
        topic = operation["channel"]["$ref"].removeprefix("#/channels/")
        assert name == f"{tag['name']}-{operation['action']}s-{topic}"
        assert operation["messages"] == [{"$ref": f"#/channels/{topic}/messages/{topic}"}]
        told.setdefault(tag["name"], {"send": set(), "receive": set()})[operation["action"]].add(topic)
    described = {topic.name for topic in TOPICS}
    assert {"worker", "pipeline", "portfolio", "executor", "operator"} <= set(told)
    for name, by_action in told.items():
        assert by_action["send"] == set(ROLES[name].writes) & described
        assert by_action["receive"] == set(ROLES[name].reads) & described


def test_whoever_receives_outputs_is_told_to_read_committed(written: Any) -> None:
    for operation in written["operations"].values():
        topic = operation["channel"]["$ref"].removeprefix("#/channels/")
        wanted = "read_committed" if operation["action"] == "receive" and topic in (*OUTPUTS, "journal") else None
        assert operation.get("x-isolation-level") == wanted


def test_the_bindings_say_what_shares_partitions(written: Any) -> None:
    for name, channel in written["channels"].items():
        binding = channel["bindings"]["kafka"]
        others = [other for other in INPUTS if other != name] if name in CO_PARTITIONED and name in INPUTS else None
        assert binding.get("x-co-partitioned-with") == others
        assert binding.get("x-partitioner") == ("murmur2" if others else None)
        assert binding.get("partitions") == (1 if name == "policies" else None)
