"""The playbook as a script: what it tells an operator to type, what it promises in answer, and what happens before.

In ``infra/playbook.md`` a block of language ``console`` is run: each line that starts with ``$ `` is a command, the
lines below it are its output. ``…`` in a line stands for any text, alone on a line for any number of lines; runs of
spaces and blank lines do not count. A last line ``(status 1)`` promises that exit status, none promises 0. Ids
(``u-…``, ``o-…``) differ from run to run: one that is first seen in an output is known by the real one from then on.
``<!-- given: … -->`` says what the world does next, ``<!-- file: NAME -->`` names the block below as a file of the
desk, ``<!-- not run: why -->`` excuses the block below.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_ITEM = re.compile(r"^<!-- (given|file|not run): (.+?) -->$|^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_STATUS = re.compile(r"\(status (\d+)\)")
_ID = re.compile(r"\b[uo]-[0-9a-f]{8,32}\b")
_ANY_LINES, _ANY_TEXT = "…", r".*?"


class Given(NamedTuple):
    """What the world does, in the playbook's words."""

    words: str


class File(NamedTuple):
    """A file of the desk's directory."""

    name: str
    text: str


class Command(NamedTuple):
    """One command with its promised output."""

    line: str
    expected: tuple[str, ...]
    status: int


class Excused(NamedTuple):
    """A block that is not run, and why."""

    why: str
    text: str


Step = Given | File | Command | Excused


def steps(text: str) -> Iterator[Step]:
    """The playbook's steps, in its order. Raises ValueError for a block of commands that is neither run nor excused."""
    before: tuple[str, str] | None = None
    for kind, words, language, body in _ITEM.findall(text):
        if kind == "given":
            yield Given(words)
        elif kind:
            before = (kind, words)
        else:
            if before is not None:
                yield File(before[1], body) if before[0] == "file" else Excused(before[1], body)
            elif language == "console":
                yield from _commands(body)
            elif language != "text":
                raise ValueError(f"a block of language {language!r} is neither run nor excused:\n{body}")
            before = None


def _commands(body: str) -> Iterator[Command]:
    for block in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        line, *expected = [one.rstrip() for one in block.splitlines() if one.strip()]
        status = _STATUS.fullmatch(expected[-1]) if expected else None
        yield Command(line, tuple(expected[:-1] if status else expected), int(status[1]) if status else 0)


class Ids:
    """The playbook's ids beside those of this run."""

    def __init__(self) -> None:
        self._real: dict[str, str] = {}

    def in_command(self, line: str) -> str:
        """The command with the ids of this run."""
        return _ID.sub(lambda found: self._real.get(found[0], found[0]), line)

    def difference(self, expected: tuple[str, ...], output: str) -> str | None:
        """What the output lacks of the promise; None if it keeps it."""
        actual = [" ".join(line.split()) for line in output.splitlines() if line.strip()]
        patterns = [None if line.strip() == _ANY_LINES else self._pattern(line) for line in expected]
        return None if self._matches(patterns, actual) else "\n".join(actual)

    def _pattern(self, line: str) -> re.Pattern[str]:
        text = _ANY_TEXT.join(re.escape(part).replace(r"\ ", " ") for part in " ".join(line.split()).split("…"))
        named: set[str] = set()

        def known_or_named(found: re.Match[str]) -> str:
            real, name = self._real.get(f"{found[1]}-{found[2]}"), f"{found[1]}_{found[2]}"
            if real is not None:
                return re.escape(real)
            again = name in named
            named.add(name)
            return f"(?P={name})" if again else f"(?P<{name}>{found[1]}-[0-9a-f]+)"

        return re.compile(re.sub(r"\b([uo])\\-([0-9a-f]{8,32})\b", known_or_named, text))

    def _matches(self, patterns: list[re.Pattern[str] | None], actual: list[str]) -> bool:
        """Line by line; after a gap at the first line that fits."""
        position, gap = 0, False
        for pattern in patterns:
            if pattern is None:
                gap = True
                continue
            while position < len(actual) and not (found := pattern.fullmatch(actual[position])):
                if not gap:
                    return False
                position += 1
            if position == len(actual):
                return False
            assert found is not None
            self._real |= {name.replace("_", "-"): value for name, value in found.groupdict().items()}
            position, gap = position + 1, False
        return gap or position == len(actual)
