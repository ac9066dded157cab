"""The reader of the playbook: what it runs, and that a broken promise is noticed."""

import pytest

from tests.integration.playbook import Command, Excused, File, Given, Ids, steps

PAGE = """
<!-- file: tidegate.toml -->

```toml
clock = "wall"
```
<!-- given: main has an equity of 10000 -->
```console
$ tidegate accounts
main ACTIVE  …

$ tidegate unlock main
error: no
(status 1)
```
<!-- not run: needs Docker -->
```sh
docker compose ps
```
```text
only shown
```
"""


def test_a_page_is_files_events_and_commands_in_its_order() -> None:
    assert list(steps(PAGE)) == [
        File("tidegate.toml", 'clock = "wall"\n'),
        Given("main has an equity of 10000"),
        Command("tidegate accounts", ("main ACTIVE  …",), 0),
        Command("tidegate unlock main", ("error: no",), 1),
        Excused("needs Docker", "docker compose ps\n"),
    ]


def test_commands_that_are_neither_run_nor_excused_are_refused() -> None:
    with pytest.raises(ValueError, match="neither run nor excused"):
        list(steps("```sh\ntidegate lock main\n```\n"))


@pytest.mark.parametrize(
    ("expected", "output", "kept"),
    [
        (("a b",), "a   b\n\n", True),
        (("a …",), "a b c\n", True),
        (("a",), "a\nb\n", False),
        (("a", "…"), "a\nb\nc\n", True),
        (("…", "c"), "a\nb\nc\n", True),
        (("…", "c"), "a\nc\nd\n", False),
        (("…", "c", "…", "d"), "a\nc\nb\nd\n", True),
        (("…", "d", "…", "c"), "a\nc\nb\nd\n", False),
        (("a", "c"), "a\nb\nc\n", False),
        (("a", "b"), "a\n", False),
        (("a.c",), "abc\n", False),
        (("(status 1)",), "", False),
        ((), "", True),
        ((), "a\n", False),
    ],
)
def test_a_promise_is_kept_line_by_line(expected: tuple[str, ...], output: str, kept: bool) -> None:
    assert (Ids().difference(expected, output) is None) == kept


def test_an_id_is_that_of_this_run_from_then_on() -> None:
    ids = Ids()

    assert ids.difference(("filed u-1f0c22d9: approve u-1f0c22d9",), "filed u-ab12cd34: approve u-99999999\n")
    assert ids.difference(("filed u-1f0c22d9: approve u-1f0c22d9",), "filed u-ab12cd34: approve u-ab12cd34\n") is None
    assert ids.in_command("tidegate approve u-1f0c22d9") == "tidegate approve u-ab12cd34"
    assert ids.difference(("u-1f0c22d9 open",), "u-99999999 open\n") is not None
