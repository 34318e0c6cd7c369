"""`hpc-accel compare`: two studies, or a study and its baseline, with an exit code for continuous integration."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hpc_accel.errors import DataError, UsageError

if TYPE_CHECKING:
    from hpc_accel.compare import judge

SLOWER = 3
"""Exit code: a pair, or all pairs together, became slower by at least the limit."""
UNKNOWN = 4
"""Exit code: nothing is known to be slower, but of some pairs nobody can say."""


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="Results of a study, or a baseline file.")],
    b: Annotated[Path | None, typer.Argument(metavar="B", help="The same, measured later, elsewhere or anew.")] = None,
    fail_if_slower: Annotated[
        str | None,
        typer.Option(metavar="PERCENT", help="End with 3 where B is slower by so much, as 5%; with 4 if not known."),
    ] = None,
    write_baseline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead: keep A as a small file for git.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON, for programs.")] = False,
) -> None:
    """Put two studies side by side: what became slower, by how much, how sure that is, and what else differs."""
    from hpc_accel.compare import baseline, judge, words

    share = None if fail_if_slower is None else _share(fail_if_slower)
    if write_baseline is not None:
        if b is not None or share is not None:
            raise UsageError(
                "--write-baseline with something to compare",
                "a baseline is made of one results directory",
                f"hpc-accel compare {a} --write-baseline {write_baseline}",
            )
        baseline.write_baseline(baseline.read_side(a), write_baseline)
        typer.echo(f"wrote {write_baseline}")
        return
    if b is None:
        raise UsageError(f"only {a}", "two sides are compared", f"hpc-accel compare {a} B, or --write-baseline FILE")
    found = judge.compare(baseline.read_side(a), baseline.read_side(b))
    if not found.pairs:
        raise _nothing_alike(a, b, found)
    code = 0 if share is None else _code(found, share)
    if as_json:
        typer.echo(json.dumps(words.to_json(found, share, code), indent=1))
    else:
        typer.echo("\n".join(words.lines(found, share)))
    if code:
        raise typer.Exit(code)


def _share(text: str) -> float:
    """`5%` as 0.05."""
    said = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", text.strip())
    if said is None:
        raise UsageError(f"--fail-if-slower {text!r}", "the limit is a percentage that is not negative", "write 5%")
    return float(said[1]) / 100


def _code(found: judge.Comparison, share: float) -> int:
    if found.slower_by(share) or found.overall.is_slower_by(share):
        return SLOWER
    return UNKNOWN if found.unknown else 0


def _nothing_alike(a: Path, b: Path, found: judge.Comparison) -> DataError:
    near = next((each for each in found.found.only_a if each.nearest), None)
    hint = f"; {near.configuration.label} of A has its nearest in B with {near.nearest}" if near else ""
    return DataError(
        f"{a} and {b} have no configuration in common{hint}",
        "runs are compared that have the same workload, layout, recipe and resources",
        "measure one study file twice, or name other results",
    )
