"""A child process ends with its owner, however the owner ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.child import Child
from tests.integration.support import poll

_UP = "import signal, sys, time; {}; print('up', flush=True); time.sleep(600)"
_SLEEPER = [sys.executable, "-c", _UP.format("pass")]
_POLITE = [sys.executable, "-c", _UP.format("signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('bye')))")]
_DEAF = [sys.executable, "-c", _UP.format("signal.signal(signal.SIGTERM, signal.SIG_IGN)")]


def _child(tmp_path: Path, command: list[str] = _SLEEPER) -> Child:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Child(command, log=scratch / "log", scratch=scratch)


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_kill_ends_the_process_and_leaves_its_files(tmp_path: Path) -> None:
    child = _child(tmp_path)
    poll(child.log_tail, 10, "the child's first line")
    assert not _gone(child.pid)
    child.kill()
    child.kill()
    assert _gone(child.pid)
    assert not child.running
    assert child.log.read_text() == "up\n"


def test_terminate_lets_the_process_end_by_itself(tmp_path: Path) -> None:
    child = _child(tmp_path, _POLITE)
    poll(child.log_tail, 10, "the child's first line")
    child.terminate(deadline_s=10)
    assert _gone(child.pid)
    assert child.log_tail() == "up\nbye"


def test_terminate_kills_a_process_that_does_not_listen(tmp_path: Path) -> None:
    child = _child(tmp_path, _DEAF)
    poll(child.log_tail, 10, "the child's first line")
    child.terminate(deadline_s=0.1)
    assert _gone(child.pid)


def test_a_program_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-such-program"):
        _child(tmp_path, ["no-such-program"])


def test_a_process_that_ended_by_itself_is_not_running(tmp_path: Path) -> None:
    child = _child(tmp_path, [sys.executable, "-c", "print('done')"])
    poll(lambda: not child.running, 10, "the child's end")
    child.kill()
    assert child.log_tail() == "done"


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_and_its_files_go_when_the_owner_dies(tmp_path: Path, death: signal.Signals) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    owner_code = f"""
import sys, time
from pathlib import Path
from infra.child import Child
scratch = Path({str(scratch)!r})
child = Child({_SLEEPER!r}, log=scratch / "log", scratch=scratch)
print(child.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", owner_code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert not _gone(pid)
        owner.send_signal(death)
        owner.wait()
    poll(lambda: _gone(pid), 10, "the child's end")
    poll(lambda: not scratch.exists(), 10, "the child's files to go")
