import os
from pathlib import Path

import pytest

from coread.errors import ConfigurationError
from coread.supervisor import EXIT_CONFIGURATION, STABLE_AFTER_S, Child


def dead(folder: Path) -> Child:
    """A process that has just ended because of its settings."""
    command = ["sh", "-c", f"exit {EXIT_CONFIGURATION}"]
    child = Child(name="worker", command=command, log=folder / "log", environment=dict(os.environ))
    child.start()
    assert child.process is not None
    child.process.wait()
    return child


def test_a_process_that_never_ran_with_its_settings_is_not_restarted(tmp_path: Path) -> None:
    child = dead(tmp_path)
    with pytest.raises(ConfigurationError, match="worker cannot run"):
        child.revive()
    child.stop()


def test_a_process_that_had_run_waits_for_settings_that_were_broken_since(tmp_path: Path) -> None:
    child = dead(tmp_path)
    child.started_at -= 2 * STABLE_AFTER_S
    child.revive()
    assert child.process is not None
    child.process.wait()
    child.revive()
    assert child.failures == 1
    child.stop()
