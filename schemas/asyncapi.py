"""The AsyncAPI 3 document, generated: ``schemas/asyncapi.json``, for tools that draw, mock or generate clients.

``python -m schemas.asyncapi`` writes it; with ``--check`` it writes nothing and exits with 1 if it differs. Channels
are the topics of the contract with their keys and settings as Kafka bindings, messages reference the JSON Schemas
beside it, operations say which role of a desk sends and receives what (``schemas.roles``).
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from schemas.meanings import TOPICS, Topic
from schemas.reference import FOLDER, example_of, schema_of
from schemas.roles import INPUTS, ROLES, Role

FILE = "asyncapi.json"
BINDING = "0.5.0"
SCHEMA_FORMAT = "application/schema+json;version=draft-2020-12"
DEFAULT_APP_ID = "tidegate"
# Those with rights of a person, or to everything, are no part of what a program is built on.
_PROGRAMS = ("worker", "steward", "mirror", "notifier", "pipeline", "portfolio", "executor")
_PEOPLE = ("operator",)

DESCRIPTION = """\
Tidegate is a pre-trade risk gate on Apache Kafka: it reads trading signals, fills, equity marks and operator commands,
and answers every signal with exactly one record, an approved order or a rejection.

- What figures mean: `contract.md`. All fields in words: `README.md`. Both are beside this file.
- `signals`, `fills`, `pnl` and `controls` have the same number of partitions and are keyed by `account_id` with Kafka's
  default partitioner, murmur2 of the key. With librdkafka set `partitioner=murmur2_random`.
- Read what the gate writes with `isolation.level=read_committed`: anything else shows decisions of transactions that
  were aborted.
- Fields that the schema of an input does not name are ignored. Outputs carry `schema_version`; version 1 is exactly
  what the schemas say."""


def document() -> dict[str, Any]:
    """The whole document, from the present models and roles."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:tidegate:gate",
        "info": {
            "title": "Tidegate",
            "version": "1",
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": "{bootstrap}",
                "protocol": "kafka-secure",
                "description": "The desk's brokers; TIDEGATE_BROKER names them for Tidegate's own processes.",
                "variables": {"bootstrap": {"default": "localhost:9092", "description": "host:port of any broker."}},
                "security": [{"$ref": "#/components/securitySchemes/scram"}],
            }
        },
        "channels": {topic.name: _channel(topic) for topic in TOPICS},
        "operations": dict(_operations()),
        "components": {
            "messages": {topic.name: _message(topic) for topic in TOPICS},
            "securitySchemes": {
                "scram": {"type": "scramSha512", "description": "One login for each process, with its role's ACLs."}
            },
        },
    }


def _channel(topic: Topic) -> dict[str, Any]:
    whose = "Read" if topic.direction == "in" else "Written"
    return {
        "address": "{prefix}" + (f"{DEFAULT_APP_ID}-{topic.name}" if _is_own(topic) else topic.name),
        "title": topic.name,
        "description": f"{whose} by the gate. Key: {topic.key}. Kept: {topic.kept}.",
        "messages": {topic.name: {"$ref": f"#/components/messages/{topic.name}"}},
        "parameters": {
            "prefix": {
                "default": "",
                "description": "TIDEGATE_TOPIC_PREFIX, where several gates share the brokers; empty unless set.",
            }
        },
        "bindings": {"kafka": _binding(topic)},
    }


def _binding(topic: Topic) -> dict[str, Any]:
    """Settings that a client may rely on; partitions and copies are the desk's choice but for what is said here."""
    binding: dict[str, Any] = {"topicConfiguration": {"cleanup.policy": ["delete"]}, "bindingVersion": BINDING}
    if topic.name == "policies":
        binding["partitions"] = 1
        binding["topicConfiguration"] |= {"retention.ms": -1, "retention.bytes": -1}
    if topic.name in INPUTS:
        binding["x-co-partitioned-with"] = [name for name in INPUTS if name != topic.name]
        binding["x-partitioner"] = "murmur2"
    return binding


def _is_own(topic: Topic) -> bool:
    """Whether it is named after the gate, and no contract with others."""
    return topic.name == "journal"


def _message(topic: Topic) -> dict[str, Any]:
    schema = schema_of(topic.model)
    return {
        "name": topic.name,
        "title": topic.model.__name__,
        "summary": schema["description"],
        "contentType": "application/json",
        "payload": {"schemaFormat": SCHEMA_FORMAT, "schema": {"$ref": f"./json/{topic.name}.schema.json"}},
        "bindings": {"kafka": {"key": _key(topic), "bindingVersion": BINDING}},
        "examples": [{"name": topic.name, "payload": example_of(topic.name)}],
    }


def _key(topic: Topic) -> dict[str, Any]:
    if topic.key == "none":
        return {"type": "null"}
    kinds: Any = ["string", "null"] if topic.name in ("signals", "dead-letters") else "string"
    return {"type": kinds, "description": f"UTF-8: {topic.key}."}


def _operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in (*_PROGRAMS, *_PEOPLE):
        role = ROLES[name]
        for topic in TOPICS:
            if topic.name in role.writes:
                yield f"{name}-sends-{topic.name}", _operation(role, topic, "send")
            if topic.name in role.reads:
                yield f"{name}-receives-{topic.name}", _operation(role, topic, "receive")


def _operation(role: Role, topic: Topic, action: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "action": action,
        "channel": {"$ref": f"#/channels/{topic.name}"},
        "title": f"{role.name} {action}s {topic.name}",
        "summary": role.who,
        "tags": [{"name": role.name}],
        "messages": [{"$ref": f"#/channels/{topic.name}/messages/{topic.name}"}],
    }
    if action == "receive" and role.group is not None:
        operation["bindings"] = {"kafka": {"groupId": _group(role), "bindingVersion": BINDING}}
    if action == "receive" and topic.direction == "out":
        operation["x-isolation-level"] = "read_committed"
    return operation


def _group(role: Role) -> Mapping[str, Any]:
    """As its ACLs allow it, for the default name of the gate."""
    begins = f"{DEFAULT_APP_ID}{role.group}"
    return {"type": "string", "const": begins} if role.exact else {"type": "string", "pattern": f"^{begins}"}


def text() -> str:
    """The file's content."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file, or check it. Returns the exit status: 1 if a checked file differs."""
    parser = argparse.ArgumentParser(prog="python -m schemas.asyncapi", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the file differs")
    path = FOLDER / FILE
    if parser.parse_args(arguments).check:
        differs = not path.exists() or path.read_text(encoding="utf-8") != text()
        if differs:
            sys.stdout.write(f"{FOLDER.name}/{FILE} differs; run python -m schemas.asyncapi\n")
        return int(differs)
    path.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
