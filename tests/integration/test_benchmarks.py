"""The benchmarks run, and compare ways that do the same; no time is judged here."""

import json

import pytest
from click.testing import CliRunner

from coread.cli import coread


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seg-write", "sr-write"])
def test_a_benchmark_runs_and_says_ratios(name: str) -> None:
    done = CliRunner().invoke(coread, ["bench", name, "--segments", "2", "--repeats", "1", "--json"])
    assert done.exit_code == 0, done.output
    rows = {row["name"]: row for row in json.loads(done.stdout)["2"]}
    assert rows["floor"]["to_floor"] == 1.0
    assert {"floor", "coread"} < set(rows)
    if name == "seg-write":
        assert "dcmqi" in rows
        sizes = [rows[way]["file_mb"] for way in ("floor", "coread", "highdicom", "dcmqi")]
        assert max(sizes) < 1.05 * min(sizes)  # the same frames, with a header or without
