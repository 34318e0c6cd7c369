"""`python -m tests.zoo.table` trains the zoo, notes how it ended in outcomes.json, and writes docs/features.md."""

import json
import re
import sys
import tempfile
from pathlib import Path

from tests.mpirun import ROOT
from tests.zoo.cases import COLUMNS, MODELS
from tests.zoo.train import Outcomes, trained

OUTCOMES = Path(__file__).with_name("outcomes.json")
PAGE = ROOT / "docs/features.md"
REFUSED = "refused: "
NUMBERS = re.compile(r"\d+ samples with each other, the serial run \d+")
INTRODUCTION = """\
# Which feature works in which layout

Each row is a model as people write it; none was adapted to this project. Each cell is one training run on the CPU: two
compared steps beside the serial run, then timed ones. `tests/zoo` trains all of them (`make zoo`), and this page is
written from what came out (`python -m tests.zoo.table`).

* **yes**: it ran, and losses, gradients and updates agreed with the serial run ([parity](parity.md)).
* **a letter**: the plan refuses it, with the rule below, before anything starts.
* **a number**: it runs, and the report says what is below.

Columns are layouts of two ranks (`dp x pp`: of four) in fp32, then a recipe on one rank and one on two.

"""


def recorded() -> Outcomes:
    """How the zoo ended when it was last trained whole."""
    found: Outcomes = json.loads(OUTCOMES.read_text())
    return found


def page(outcomes: Outcomes) -> str:
    """The page as text."""
    rules: dict[str, str] = {}
    told: dict[str, str] = {}
    rows = []
    for name, by_column in outcomes.items():
        cells = [_cell(outcome, rules, told) for outcome in by_column.values()]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    head = [f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    notes = [f"* {mark}: {text}" for text, mark in {**rules, **told}.items()]
    return INTRODUCTION + "\n".join([*head, *rows, "", *notes]) + "\n"


def _cell(outcome: str, rules: dict[str, str], told: dict[str, str]) -> str:
    if outcome == "works":
        return "yes"
    if outcome.startswith(REFUSED):
        return rules.setdefault(outcome.removeprefix(REFUSED), "abcdefghijklmnopqrstuvwxyz"[len(rules)])
    outcome = NUMBERS.sub("fewer samples with each other than the serial run", outcome)
    return told.setdefault(outcome, str(len(told) + 1))


if __name__ == "__main__":
    again = sys.argv[1:]
    with tempfile.TemporaryDirectory() as directory:
        now = trained(Path(directory), again or MODELS, jobs=2)
    before = recorded() if again else {}
    whole = {name: now.get(name, before.get(name, {})) for name in MODELS}
    OUTCOMES.write_text(json.dumps(whole, indent=1) + "\n")
    PAGE.write_text(page(whole))
