"""``coread bench``: what each stage costs, beside other people's ways and the floor."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from coread.terminal import console

if TYPE_CHECKING:
    from coread.benchmarks.comparison import Result

NAMES = (
    "load",
    "fetch",
    "resample",
    "forward",
    "invert",
    "measure",
    "seg-write",
    "sr-write",
    "intake",
    "chain",
    "archive-sim",
    "archive-turnaround",
)
SYNTAXES = ("native", "jpeg-ls", "jpeg-2000", "rle")
LABELS = (5, 104)
FEWEST_STUDIES = 10
"""Of archive-turnaround: for a median that says something."""


@click.command()
@click.argument("name", type=click.Choice(NAMES))
@click.option("--segments", multiple=True, type=click.IntRange(1, 255), default=LABELS, show_default=True)
@click.option(
    "--syntax", "syntaxes", multiple=True, type=click.Choice(SYNTAXES), default=SYNTAXES, help="load: how pixels lie."
)
@click.option("--repeats", type=click.IntRange(1), default=7, show_default=True, help="Interleaved rounds.")
@click.option("--database", "databases", multiple=True, help="intake: a database to measure the ledger in, as a URL.")
@click.option("--forward", "with_forward", is_flag=True, help="chain: with the forward pass of a CT UNet.")
@click.option("--growth", is_flag=True, help="chain: ours alone, from 100 to 1,000 slices and from 1 to 104 labels.")
@click.option("--studies", type=click.IntRange(1), default=1_000_000, show_default=True, help="archive-sim: a cohort.")
@click.option("--simulate", type=click.IntRange(1), help="archive-sim: the last so many; 2000, unless told otherwise.")
@click.option("--against", type=click.IntRange(1), help="archive-sim: a smaller cohort; by default as many.")
@click.option("--workers", type=click.IntRange(1), default=200, show_default=True, help="archive-sim: simulated ones.")
@click.option("--associations", type=click.IntRange(1), default=8, show_default=True, help="archive-sim: at once.")
@click.option("--ledger", help="archive-sim: the ledger's database as a URL; by default an SQLite file.")
@click.option("--small", is_flag=True, help="A little of everything, to see that it runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def bench(
    name: str,
    segments: Sequence[int],
    syntaxes: Sequence[str],
    repeats: int,
    databases: Sequence[str],
    with_forward: bool,  # noqa: FBT001  # click hands flags over by name
    growth: bool,  # noqa: FBT001
    studies: int,
    simulate: int | None,
    against: int | None,
    workers: int,
    associations: int,
    ledger: str | None,
    small: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001
) -> None:
    """Measure a stage beside other people's ways and the floor, on generated data; ratios come first."""
    with tempfile.TemporaryDirectory() as folder:
        if name == "intake":
            _intake(Path(folder), repeats=repeats, databases=databases, small=small, as_json=as_json)
        elif name == "archive-sim":
            simulated = min(studies, simulate or (20 if small else 2_000))
            _archive_sim(
                Path(folder),
                ledger=ledger or "sqlite://",
                studies=min(studies, 100) if small else studies,
                simulated=min(simulated, 100) if small else simulated,
                workers=workers,
                associations=associations,
                against=against,
                as_json=as_json,
            )
        elif name == "archive-turnaround":
            _archive_turnaround(Path(folder), studies=1 if small else max(repeats, FEWEST_STUDIES), as_json=as_json)
        elif name == "chain" and growth:
            _growth(Path(folder), repeats=repeats, small=small, as_json=as_json)
        else:
            found = dict(
                _measured(
                    name,
                    Path(folder),
                    segments=segments,
                    syntaxes=syntaxes,
                    repeats=repeats,
                    with_forward=with_forward,
                    small=small,
                )
            )
            _show(name, found, as_json=as_json)


def _measured(
    name: str,
    folder: Path,
    *,
    segments: Sequence[int],
    syntaxes: Sequence[str],
    repeats: int,
    with_forward: bool,
    small: bool,
) -> Iterator[tuple[str, "Result"]]:
    """What is varied, and what was measured of it."""
    from coread.benchmarks.samples import SHAPE, SMALL

    shape = SMALL if small else SHAPE
    if name in ("load", "fetch"):
        from coread.benchmarks.fetch import fetch
        from coread.benchmarks.load import load

        for syntax in syntaxes:
            run = load if name == "load" else fetch
            yield syntax, run(_room(folder, syntax), shape=shape, syntax=syntax, repeats=repeats)
    elif name == "resample":
        from coread.benchmarks.resample import resample

        yield "1.5 mm", resample(folder, shape=shape, repeats=repeats)
    elif name == "forward":
        from coread.benchmarks.forward import forward

        yield "CT UNet", forward(folder, small=small, repeats=repeats)
    elif name == "chain":
        from coread.benchmarks.chain import chain

        for count in segments:
            room = _room(folder, str(count))
            yield (
                str(count),
                chain(room, labels=count, shape=shape, repeats=repeats, with_forward=with_forward),
            )
    else:
        run_labels = _by_labels(name)
        for count in segments:
            yield str(count), run_labels(_room(folder, str(count)), count, shape, repeats)


def _by_labels(name: str) -> Callable[[Path, int, tuple[int, int, int], int], "Result"]:
    """The stages that hang on the number of labels."""
    from coread.benchmarks.invert import invert
    from coread.benchmarks.measure import measure
    from coread.benchmarks.seg_write import seg_write
    from coread.benchmarks.sr_write import sr_write

    if name == "invert":
        return lambda folder, count, shape, repeats: invert(folder, labels=count, shape=shape, repeats=repeats)
    if name == "measure":
        return lambda folder, count, shape, repeats: measure(folder, labels=count, shape=shape, repeats=repeats)
    write = {"seg-write": seg_write, "sr-write": sr_write}[name]
    return lambda folder, count, shape, repeats: write(folder, segments=count, shape=shape, repeats=repeats)


def _room(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def _show(name: str, found: Mapping[str, "Result"], *, as_json: bool) -> None:
    for note in dict.fromkeys(note for result in found.values() for note in result.left_out):
        click.echo(f"left out: {note}", err=True)
    if as_json:
        rows = {varied: [asdict(row) for row in result.rows] for varied, result in found.items()}
        click.echo(json.dumps(rows, indent=2))
        return
    for varied, result in found.items():
        table = Table("Way", "To floor", "To coread", "Seconds", "Peak MB", "File MB", "", title=f"{name}, {varied}")
        for row in result.rows:
            ratios = (f"{each:.2f}" if each is not None else "" for each in (row.to_floor, row.to_coread))
            sizes = (f"{each:.0f}" if each is not None else "" for each in (row.peak_mb, row.file_mb))
            table.add_row(row.name, *ratios, f"{row.seconds:.3f}", *sizes, row.note)
        console().print(table)


def _intake(folder: Path, *, repeats: int, databases: Sequence[str], small: bool, as_json: bool) -> None:
    from coread.benchmarks.intake import SMALL, Scale, intake

    found = intake(folder, repeats=repeats, scale=SMALL if small else Scale(), databases=databases)
    if as_json:
        click.echo(json.dumps({title: [asdict(row) for row in rows] for title, rows in found.items()}, indent=2))
        return
    for title, rows in found.items():
        table = Table("What", "Ratio", "First", "Second", "Unit", "", title=title)
        for row in rows:
            table.add_row(row.what, f"{row.ratio:.2f}", f"{row.first:.4g}", f"{row.second:.4g}", row.unit, row.note)
        console().print(table)


def _growth(folder: Path, *, repeats: int, small: bool, as_json: bool) -> None:
    from coread.benchmarks.growth import growth

    found = growth(folder, repeats=repeats, small=small)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in found], indent=2))
        return
    table = Table("Slices", "Labels", "Seconds", "ms per slice", "Peak MB", title="chain, coread")
    for row in found:
        per_slice = 1000 * row.seconds / row.slices
        table.add_row(str(row.slices), str(row.labels), f"{row.seconds:.2f}", f"{per_slice:.1f}", f"{row.peak_mb:.0f}")
    console().print(table)


def _archive_sim(
    folder: Path,
    *,
    ledger: str,
    studies: int,
    simulated: int,
    workers: int,
    associations: int,
    against: int | None,
    as_json: bool,
) -> None:
    from coread.benchmarks.archive_outcome import Scenario
    from coread.benchmarks.archive_sim import archive_sim

    scenario = Scenario(studies=studies, simulate=simulated, workers=workers, associations=associations)
    found = archive_sim(ledger, folder, scenario, against=against)
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2))
        return
    small, large = found.small, found.large
    limits = large.limits()
    least = min(limits.values())
    title = f"{large.scenario.studies} studies, {large.scenario.workers} workers, ledger in {found.database}"
    table = Table("Part", "To the limit", "Studies per hour", title=title)
    for part, rate in sorted(limits.items(), key=lambda each: each[1]):
        table.add_row(part, f"{rate / least:.2f}", f"{rate:.0f}")
    console().print(table)
    sizes = f"{large.scenario.studies} to {small.scenario.studies} studies"
    table = Table("What", "Ratio", "Processor", "Small ms", "Large ms", "Times a study", title=sizes)
    ratio = large.ledger_ms / small.ledger_ms
    processor = large.processor_ms / small.processor_ms
    table.add_row(
        "ledger, for each study",
        f"{ratio:.2f}",
        f"{processor:.2f}",
        f"{small.ledger_ms:.1f}",
        f"{large.ledger_ms:.1f}",
        "",
    )
    for row in found.operations:
        numbers = (row.ratio, row.processor_ratio, row.small_ms, row.large_ms, row.for_each_study)
        table.add_row(row.name, *(f"{number:.2f}" for number in numbers))
    console().print(table)
    click.echo(
        f"peak memory: ratio {large.peak_mb / small.peak_mb:.2f}, {small.peak_mb:.0f} and {large.peak_mb:.0f} MB; "
        f"simulated: {large.per_hour:.0f} studies an hour, {large.most_in_flight} copies at most; overhead for each "
        f"study {large.overhead_ms:.1f} ms"
    )


def _archive_turnaround(folder: Path, *, studies: int, as_json: bool) -> None:
    from coread.benchmarks.archive_turnaround import archive_turnaround

    found = archive_turnaround(folder, studies=studies)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in found], indent=2))
        return
    title = f"from C-STORE to the result, medians of {studies} studies, in seconds"
    spans_shown = ("Turnaround", "Slowest", "A job", "Sent", "Settled", "Waited", "Read")
    table = Table("While", "Ratio", "Strict", *spans_shown, "Run/min", title=title)
    for row in found:
        spans = (row.seconds, row.slowest, row.job, row.sent, row.settled, row.waited, row.read)
        ratios = (f"{each:.2f}" for each in (row.ratio, row.strict))
        table.add_row(row.what, *ratios, *(f"{each:.2f}" for each in spans), f"{row.per_minute:.0f}")
    console().print(table)
