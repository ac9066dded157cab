"""Would a change break who writes to Tidegate or reads from it? The present schemas against those of the last release.

``python -m schemas.compat`` compares and exits with 1, naming each field, what changed and what to do instead; tests
run it. ``--release VERSION`` writes the present schemas to ``schemas/released/VERSION.json``: do it when a release is
made, and keep the files of former ones.

The rules, which ``README.md`` promises to integrators:

- *Inputs may only loosen.* Whatever a record was accepted for is still accepted and still read. New fields are
  optional.
- *Outputs may only add*, and say so: a new field, or a new value of a closed set, raises ``schema_version``. Nothing is
  dropped, becomes null, absent or of another kind.
- *Topics stay*: their direction, key and settings.

A break that is meant is written down, with its reason, in ``schemas/released/accepted.json``: a list of ``{"where": …,
"change": …, "why": …}`` that repeats what the check says. An entry that no break needs is a fault too, so the list
holds for one release and is emptied with the next.

What it cannot see: a field that keeps its shape and changes its meaning.
"""

import argparse
import json
import operator
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from schemas.asyncapi import document
from schemas.meanings import TOPICS
from schemas.reference import FOLDER, schema_of

VERSION_FIELD = "schema_version"
_RELEASES = "released"
_ACCEPTED = "accepted.json"

Schema = Mapping[str, Any]


class Break(NamedTuple):
    """One change that somebody built on the last release would not survive."""

    where: str
    """The topic and the field's path in it."""
    change: str
    """What is different, and for whom that is fatal."""
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.change}\n    → {self.remedy}"


# -- the contract as one value -------------------------------------------------------------------------------------


def contract() -> dict[str, Any]:
    """Everything that integrators build on, by topic: schema, direction, key, settings."""
    channels = document()["channels"]
    return {
        topic.name: {
            "direction": topic.direction,
            "key": topic.key,
            "address": channels[topic.name]["address"],
            "settings": channels[topic.name]["bindings"]["kafka"],
            "schema": _bare(schema_of(topic.model)),
        }
        for topic in TOPICS
    }


def _bare(schema: Any) -> Any:
    """A schema without its words: a better explanation breaks nobody."""
    if isinstance(schema, list):
        return [_bare(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    bare = {}
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            bare[key] = {name: _bare(one) for name, one in value.items()}
        elif key not in ("description", "title", "$schema"):
            bare[key] = _bare(value)
    return bare


def breaks(before: Schema, after: Schema) -> list[Break]:
    """What would break between two contracts, in the order of topics and fields."""
    return [one for topic, old in before.items() for one in _topic_breaks(topic, old, after.get(topic))]


def _topic_breaks(topic: str, old: Schema, new: Schema | None) -> Iterator[Break]:
    if new is None:
        yield Break(topic, "the topic is gone: whoever uses it stops", "keep it, beside its successor, for a release")
        return
    for name, what in (("direction", "direction"), ("key", "key"), ("address", "name on the broker")):
        if old[name] != new[name]:
            yield Break(topic, f"its {what} was {old[name]!r} and is {new[name]!r}", "take it back: use a new topic")
    for name in sorted(old["settings"].keys() | new["settings"].keys()):
        if name != "bindingVersion" and old["settings"].get(name) != new["settings"].get(name):
            yield Break(
                topic,
                f"its setting {name} was {old['settings'].get(name)!r} and is {new['settings'].get(name)!r}: topics "
                "that exist are never changed",
                "take it back: use a new topic",
            )
    yield from (_input_breaks if new["direction"] == "in" else _output_breaks)(topic, old["schema"], new["schema"])


# -- inputs: whatever was accepted still is ------------------------------------------------------------------------


def _input_breaks(topic: str, old: Schema, new: Schema) -> Iterator[Break]:
    for gap in gaps(_Part(old, old), _Part(new, new), ()):
        where = _path(topic, gap.path)
        match gap.kind:
            case "required":
                yield Break(
                    where,
                    "is required, and was not: records of old producers are refused",
                    "make it optional, with a default that means what its absence meant",
                )
            case "unknown" | "unnamed":
                yield Break(
                    where,
                    "is not read any more: what old producers say in it is lost",
                    "go on reading it; say in its meaning what to use instead",
                )
            case _:
                yield Break(
                    where,
                    f"{gap.words} is not accepted any more: records of old producers are refused",
                    "go on accepting it, beside what is new",
                )
    for path, was, now in _defaults(_Part(old, old), _Part(new, new), ()):
        yield Break(
            _path(topic, path),
            f"its default was {was!r} and is {now!r}: records of old producers mean something else",
            "keep the default; give the new meaning a field of its own",
        )


def _defaults(old: "_Part", new: "_Part", path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    for name, was in old.properties().items():
        now = new.properties().get(name)
        if now is None:
            continue
        if "default" in was.schema and was.schema["default"] != now.schema.get("default", was.schema["default"]):
            yield (*path, name), was.schema["default"], now.schema["default"]
        yield from _defaults(was, now, (*path, name))


# -- outputs: whatever is written was known ------------------------------------------------------------------------


def _output_breaks(topic: str, old: Schema, new: Schema) -> Iterator[Break]:
    version_was, version_is = (_version_of(one) for one in (old, new))
    if version_is is None or (version_was is not None and version_is < version_was):
        yield Break(
            f"{topic}.{VERSION_FIELD}",
            f"was {version_was} and is {version_is}: consumers cannot tell what they read",
            "let it only rise",
        )
        return
    is_raised = version_was is None or version_is > version_was
    for gap in gaps(_Part(new, new), _Part(old, old), ()):
        where = _path(topic, gap.path)
        if gap.path == (VERSION_FIELD,):
            continue
        match gap.kind:
            case "required":
                yield Break(
                    where,
                    "is no longer always there: consumers that rely on it fail",
                    "go on writing it, null only where it could be null before",
                )
            case "unnamed":
                pass  # In an object that was always open.
            case "unknown" | "values":
                if not is_raised:
                    what = "is new" if gap.kind == "unknown" else f"holds {gap.words} now"
                    yield Break(
                        where,
                        f"{what}, under the same {VERSION_FIELD}: consumers are promised that nothing is added to it",
                        f"raise {VERSION_FIELD} of {topic}, and release consumers that know it first",
                    )
            case _:
                yield Break(
                    where,
                    f"holds {gap.words} now: consumers do not expect that",
                    "write it as before, and what is new into a field beside it",
                )


def _version_of(schema: Schema) -> int | None:
    version: int | None = schema["properties"].get(VERSION_FIELD, {}).get("const")
    return version


# -- may a value that one schema allows be refused by the other? ---------------------------------------------------


class Gap(NamedTuple):
    """Why a value that is valid by one schema may not be by another.

    ``kind``: ``required`` (the field may be absent), ``unknown`` (the field is not known, and no other is allowed),
    ``unnamed`` (it is not known, but others are allowed), ``values`` (a value of a closed set is not known), ``shape``
    (all else); ``words``: for the last two, what the smaller may hold.
    """

    kind: str
    path: tuple[str, ...]
    words: str = ""


class _Part(NamedTuple):
    """A schema, and the whole that its references are about."""

    schema: Schema
    whole: Schema

    def resolved(self) -> "_Part":
        if "$ref" not in self.schema:
            return self
        place: Any = self.whole
        for key in self.schema["$ref"].removeprefix("#/").split("/"):
            place = place[key]
        return _Part(place, self.whole).resolved()

    def alternatives(self) -> "list[_Part]":
        part = self.resolved()
        if "anyOf" in part.schema:
            return [one for each in part.schema["anyOf"] for one in _Part(each, self.whole).alternatives()]
        kinds = part.schema.get("type")
        if isinstance(kinds, list):
            return [_Part({**part.schema, "type": kind}, self.whole) for kind in kinds]
        return [part]

    def properties(self) -> "dict[str, _Part]":
        return {
            name: _Part(one, self.whole)
            for alternative in self.alternatives()
            for name, one in alternative.schema.get("properties", {}).items()
        }

    @property
    def kind(self) -> str | None:
        """``null``, ``string``, …; None: anything."""
        kind: str | None = self.schema.get("type")
        return kind

    @property
    def values(self) -> tuple[Any, ...] | None:
        """The values of a closed set."""
        if "const" in self.schema:
            return (self.schema["const"],)
        return tuple(self.schema["enum"]) if "enum" in self.schema else None


def gaps(smaller: _Part, larger: _Part, path: tuple[str, ...]) -> Iterator[Gap]:
    """Reasons why a value that ``smaller`` allows may be refused by ``larger``; none if none can be."""
    if not larger.schema:
        return
    choices = larger.alternatives()
    for one in smaller.alternatives():
        found = [list(_gaps_of_one(one, choice, path)) for choice in choices if _same_kind(one, choice)]
        if not found:
            yield Gap("shape", path, _a(one.kind))
        elif all(found):
            # The alternative that comes nearest says best what is amiss.
            yield from min(found, key=len)


def _a(kind: str | None) -> str:
    if kind in (None, "null"):
        return kind or "anything"
    return f"{'an' if kind[0] in 'aeio' else 'a'} {kind}"


def _same_kind(one: _Part, other: _Part) -> bool:
    return other.kind is None or one.kind == other.kind or (one.kind, other.kind) == ("integer", "number")


def _gaps_of_one(one: _Part, other: _Part, path: tuple[str, ...]) -> Iterator[Gap]:
    if other.values is not None:
        new = [value for value in one.values or () if value not in other.values]
        if one.values is None:
            yield Gap("shape", path, f"any {one.kind or 'value'} (not only {_listed(other.values)})")
        elif new:
            yield Gap("values", path, _listed(new))
        return
    if one.values is None:
        yield from _bound_gaps(one, other, path)
    if one.kind == "object":
        yield from _object_gaps(one, other, path)
    if one.kind == "array":
        yield from _array_gaps(one, other, path)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


_LOWER = {"minLength": "shorter", "minItems": "fewer", "minimum": "less", "exclusiveMinimum": "less"}
_UPPER = {"maxLength": "longer", "maxItems": "more", "maximum": "more", "exclusiveMaximum": "more"}


def _bound_gaps(one: _Part, other: _Part, path: tuple[str, ...]) -> Iterator[Gap]:
    for bounds, is_wider in ((_LOWER, operator.lt), (_UPPER, operator.gt)):
        for name, words in bounds.items():
            limit, mine = other.schema.get(name), one.schema.get(name)
            if limit is not None and (mine is None or is_wider(mine, limit)):
                yield Gap("shape", path, f"what is {words} than {limit}")
    for name in ("pattern", "format"):
        wanted = other.schema.get(name)
        if wanted is not None and one.schema.get(name) != wanted:
            yield Gap("shape", path, f"text that does not fit the {name} {wanted}")


def _object_gaps(one: _Part, other: _Part, path: tuple[str, ...]) -> Iterator[Gap]:
    mine, known = one.properties(), other.properties()
    rest, mine_rest = (part.schema.get("additionalProperties", True) for part in (other, one))
    for name, part in mine.items():
        if name in known:
            yield from gaps(part, known[name], (*path, name))
        elif isinstance(rest, Mapping):
            yield from gaps(part, _Part(rest, other.whole), (*path, name))
        else:
            yield Gap("unknown" if rest is False else "unnamed", (*path, name))
    always = set(one.schema.get("required", ()))
    for name in other.schema.get("required", ()):
        if name not in always:
            yield Gap("required", (*path, name))
    if "propertyNames" in other.schema:
        yield from gaps(_names(one), _names(other), (*path, "*"))
    if isinstance(rest, Mapping) and mine_rest is not False:
        held = mine_rest if isinstance(mine_rest, Mapping) else {}
        yield from gaps(_Part(held, one.whole), _Part(rest, other.whole), (*path, "*"))
    elif rest is False and mine_rest is not False:
        yield Gap("shape", path, "fields that nobody has named")


def _names(part: _Part) -> _Part:
    return _Part({"type": "string", **part.schema.get("propertyNames", {})}, part.whole)


def _array_gaps(one: _Part, other: _Part, path: tuple[str, ...]) -> Iterator[Gap]:
    if (wanted := other.schema.get("items")) is not None:
        yield from gaps(_Part(one.schema.get("items", {}), one.whole), _Part(wanted, other.whole), (*path, "[]"))
    firsts, wanted_firsts = one.schema.get("prefixItems", ()), other.schema.get("prefixItems", ())
    for number, place in enumerate(wanted_firsts):
        held = firsts[number] if number < len(firsts) else {}
        yield from gaps(_Part(held, one.whole), _Part(place, other.whole), (*path, f"[{number}]"))


def _path(topic: str, path: Sequence[str]) -> str:
    return ".".join((topic, *path)).replace(".[", "[")


# -- releases ------------------------------------------------------------------------------------------------------


def last_release(folder: Path) -> tuple[str, dict[str, Any]]:
    """Version and contract of the last release. Raises FileNotFoundError if there is none."""
    found = {_number(path): path for path in folder.glob("*.json") if path.name != _ACCEPTED}
    if not found:
        raise FileNotFoundError(f"{folder} holds no release; write one with --release VERSION")
    path = found[max(found)]
    topics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return path.stem, topics


def _number(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", path.stem))


def judge(folder: Path, now: Schema) -> list[str]:
    """What the check has to say, a text for each fault; empty if nobody would be broken."""
    _, before = last_release(folder)
    accepted = folder / _ACCEPTED
    excused = json.loads(accepted.read_text(encoding="utf-8")) if accepted.exists() else []
    known = {(one["where"], one["change"]) for one in excused if one.get("why")}
    found = breaks(before, now)
    needless = known - {(one.where, one.change) for one in found}
    return [str(one) for one in found if (one.where, one.change) not in known] + [
        f"{where}: {change}\n    → {_ACCEPTED} excuses what is not there; take the entry out"
        for where, change in sorted(needless)
    ]


def release(folder: Path, version: str, now: Schema) -> Path:
    """Write the contract of a release, and forget what was excused for it."""
    folder.mkdir(exist_ok=True)
    (folder / _ACCEPTED).unlink(missing_ok=True)
    path = folder / f"{version}.json"
    path.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, or write a release. Returns the exit status: 1 if somebody would be broken."""
    parser = argparse.ArgumentParser(prog="python -m schemas.compat", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--release", metavar="VERSION", help="write the present schemas as those of this release")
    version = parser.parse_args(arguments).release
    folder = FOLDER / _RELEASES
    if version is not None:
        sys.stdout.write(f"{release(folder, version, contract()).relative_to(FOLDER.parent)} written\n")
        return 0
    faults = judge(folder, contract())
    if faults:
        sys.stdout.write(f"since release {last_release(folder)[0]}:\n" + "".join(f"{fault}\n" for fault in faults))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
