"""What the core may be made of, checked on its syntax trees: no IO, clock, randomness or binary floats."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import streams

STREAMS = Path(streams.__path__[0])
ROOT = STREAMS.parent
CORE = sorted((STREAMS / "core").glob("**/*.py"))
SCHEMAS = sorted((ROOT / "schemas").glob("**/*.py"))
WIRE = [ROOT / "schemas" / name for name in ("types.py", "inputs.py", "config.py")]
SHIPPED = sorted(path for package in ("streams", "schemas", "infra") for path in (ROOT / package).glob("**/*.py"))

FORBIDDEN = {
    "effects": {"os", "io", "sys", "pathlib", "socket", "ssl", "subprocess", "shutil", "tempfile", "signal", "logging"},
    "clocks": {"time", "sched"},
    "chance": {"random", "secrets", "uuid"},
    "concurrency": {"asyncio", "threading", "multiprocessing", "concurrent", "queue", "contextvars"},
    "the shell": {"aiokafka", "kafka", "faust", "mode", "rocksdict", "redis", "aiohttp", "prometheus_client", "typer"},
}
NOT_IN_CORE = frozenset(name for group in FORBIDDEN.values() for name in group)
CLOCK_CALLS = frozenset(("now", "utcnow", "today", "time", "time_ns", "monotonic", "perf_counter"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def imports(path: Path) -> set[str]:
    """Every module that the file imports, wherever in it."""
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add(node.module or "")
    return found


def test_the_core_is_there() -> None:
    assert len(CORE) > 10
    assert all(path.exists() for path in WIRE)


@pytest.mark.parametrize("path", [*CORE, *SCHEMAS], ids=name_of)
def test_no_io_clock_randomness_or_shell_is_imported(path: Path) -> None:
    tops = {module.partition(".")[0] for module in imports(path)}
    allowed = {"pathlib", "sys"} if path not in (*CORE, *WIRE) else set()
    assert tops & NOT_IN_CORE <= allowed


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_the_core_imports_only_itself_and_the_schemas_of_the_project(path: Path) -> None:
    own = {module for module in imports(path) if module.partition(".")[0] in ("streams", "infra", "tests")}
    assert all(module.startswith("streams.core") for module in own)


@pytest.mark.parametrize("path", SCHEMAS, ids=name_of)
def test_the_schemas_know_nothing_of_the_program(path: Path) -> None:
    assert {module.partition(".")[0] for module in imports(path)}.isdisjoint({"streams", "infra", "tests"})


@pytest.mark.parametrize("path", [*CORE, *WIRE], ids=name_of)
def test_no_binary_floating_point(path: Path) -> None:
    for node in nodes(path):
        if isinstance(node, ast.Constant):
            assert not isinstance(node.value, float | complex), f"line {node.lineno}: {node.value!r}"
        if isinstance(node, ast.Name):
            assert node.id != "float", f"line {node.lineno}"
        if isinstance(node, ast.ImportFrom):
            assert node.module not in ("math", "statistics"), f"line {node.lineno}"


@pytest.mark.parametrize("path", [*CORE, *WIRE], ids=name_of)
def test_nobody_asks_the_time_or_opens_a_file(path: Path) -> None:
    for node in nodes(path):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Attribute):
                assert called.attr not in CLOCK_CALLS, f"line {node.lineno}: .{called.attr}()"
            if isinstance(called, ast.Name):
                assert called.id not in ("open", "print", "input", "exec", "eval", "__import__"), f"line {node.lineno}"


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_no_global_is_ever_rebound(path: Path) -> None:
    assert not any(isinstance(node, ast.Global | ast.Nonlocal) for node in nodes(path))


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_every_module_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.name == "__init__.py" and not text.strip():
        return
    assert ast.get_docstring(ast.parse(text))
