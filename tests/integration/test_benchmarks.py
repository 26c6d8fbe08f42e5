"""The benchmarks run, and compare ways that do the same; no time is judged here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from click.testing import CliRunner

from coread.benchmarks.archive_turnaround import IDLE, SOURCES
from coread.benchmarks.cold_start import FLOOR, cold_start
from coread.benchmarks.ct_bundle import HIGHEST, LOWEST, ByValue, CtUNet
from coread.benchmarks.samples import SMALL, ct_values, labels_of
from coread.cli import coread
from tests.services import PostgreSQL


def bench(*arguments: str) -> Any:
    done = CliRunner().invoke(coread, ["bench", *arguments, "--repeats", "1", "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seg-write", "sr-write"])
def test_a_benchmark_runs_and_says_ratios(name: str) -> None:
    rows = {row["name"]: row for row in bench(name, "--segments", "2")["2"]}
    assert rows["floor"]["to_floor"] == 1.0
    assert rows["coread"]["to_coread"] == 1.0
    assert {"floor", "coread"} < set(rows)
    if name == "seg-write":
        assert "dcmqi" in rows
        sizes = [rows[way]["file_mb"] for way in ("floor", "coread", "highdicom", "dcmqi")]
        assert max(sizes) < 1.05 * min(sizes)  # the same frames, with a header or without


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "peers"),
    [
        (["load", "--syntax", "native"], {"pydicom", "highdicom", "MONAI"}),
        (["load", "--syntax", "jpeg-ls"], {"pydicom", "highdicom", "MONAI"}),
        (["fetch", "--syntax", "native"], {"archive, pydicom", "DICOMweb, pydicom"}),
        (["resample"], {"MONAI", "MONAI lazy", "torch"}),
        (["forward"], {"torch", "torch, autocast bf16"}),
        (["invert", "--segments", "5"], {"MONAI", "MONAI, argmax first"}),
        (["invert", "--segments", "30"], {"MONAI"}),
        (["measure", "--segments", "30"], {"a mask for each", "scipy.ndimage"}),
        (["seg-write", "--segments", "30"], {"highdicom"}),
        (["chain", "--segments", "5"], {"floor", "MONAI + highdicom"}),
        (["chain", "--segments", "30"], {"floor", "MONAI + highdicom"}),
        (["chain", "--segments", "30", "--forward"], {"MONAI + highdicom"}),
    ],
    ids=" ".join,
)
def test_a_little_of_each_stage_runs_beside_its_peers(arguments: list[str], peers: set[str]) -> None:
    (rows,) = bench(*arguments, "--small").values()
    assert {"coread", *peers} <= {row["name"] for row in rows}
    assert all(row["seconds"] > 0 for row in rows)


@pytest.mark.slow
def test_the_growth_of_the_chain_is_told_by_slices_and_labels() -> None:
    rows = bench("chain", "--growth", "--small")
    assert len({(row["slices"], row["labels"]) for row in rows}) == len(rows) == 4


@pytest.mark.parametrize("network", [ByValue, CtUNet])
def test_the_benchmarks_network_tells_the_organs_from_their_values(network: type[torch.nn.Module]) -> None:
    labels = labels_of(5, (24, 96, 80))
    values = torch.from_numpy(ct_values(labels).astype(np.float32))
    image = ((values - LOWEST) / (HIGHEST - LOWEST)).clamp(0, 1)[None, None, :16, :80]
    with torch.inference_mode():
        scores = network(6).eval()(image)
    found, expected = scores[0].argmax(0).numpy(), labels[:16, :80]
    assert (found[found > 0] == expected[found > 0]).all()  # a rim is background, and nothing else
    assert (found == expected).mean() > 0.95
    assert set(np.unique(found)) == set(range(6))


def test_each_organ_of_the_sample_is_there() -> None:
    assert set(np.unique(labels_of(104, SMALL))) == set(range(105))


@pytest.mark.slow
def test_the_intakes_benchmark_runs_on_both_databases() -> None:
    with PostgreSQL() as database:
        arguments = ["bench", "intake", "--small", "--repeats", "1", "--json", "--database", database.url]
        done = CliRunner().invoke(coread, arguments)
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        with psycopg.connect(database.url.replace("+psycopg", "")) as connection:
            left = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'coread%'").fetchall()
    assert len(found) == 4
    assert all(row["ratio"] > 0 for rows in found.values() for row in rows)
    operations = [[row["what"] for row in rows] for title, rows in found.items() if title.startswith("ledger")]
    assert operations[0] == operations[1]
    assert left == [], "the benchmark's schemas are still there"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_clinical_studys_turnaround_is_measured_with_and_without_archive_runs() -> None:
    rows = {row["what"]: row for row in bench("archive-turnaround", "--small")}
    assert rows[IDLE]["ratio"] == 1.0
    assert rows.keys() == {IDLE, *SOURCES}
    for row in rows.values():
        assert row["seconds"] == pytest.approx(row["sent"] + row["settled"] + row["waited"] + row["read"])
    assert all(rows[run]["job"] > 0 and rows[run]["per_minute"] > 0 for run in SOURCES)


@pytest.mark.slow
def test_a_cold_start_is_measured_beside_its_floor(tmp_path: Path) -> None:
    rows = {row.way: row for row in cold_start(tmp_path, repeats=1)}
    assert rows[FLOOR].to_floor == 1.0
    assert rows["coread worker"].held_mb > rows[FLOOR].held_mb > 0
