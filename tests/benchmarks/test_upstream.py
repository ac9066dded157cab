"""Patches for libraries still fit the versions that are installed."""

from pathlib import Path

import aiokafka

from tests.benchmarks.upstream.__main__ import patched


def test_the_patch_fits_the_installed_aiokafka_and_leaves_it_alone(tmp_path: Path) -> None:
    installed = Path(aiokafka.__file__).parent / "producer" / "sender.py"
    before = installed.read_text()
    changed = (patched(tmp_path) / "aiokafka" / "producer" / "sender.py").read_text()
    assert "BACKOFF_OVERRIDE" in before
    assert "BACKOFF_OVERRIDE" not in changed
    assert changed.count("_concurrent_backoff") == 4
    compile(changed, "sender.py", "exec")
    assert installed.read_text() == before
