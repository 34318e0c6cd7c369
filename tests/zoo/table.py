"""`python -m tests.zoo.table` trains the zoo and writes docs/features.md: which feature works in which layout."""

import tempfile
from pathlib import Path

from tests.mpirun import ROOT
from tests.zoo.cases import COLUMNS, MODELS, SHORT
from tests.zoo.train import trained

PAGE = ROOT / "docs/features.md"
INTRODUCTION = """\
# Which feature works in which layout

Each row is a model as people write it; none was adapted to this project. Each cell is one training run on the CPU: two
compared steps beside the serial run, then timed ones. `tests/zoo` trains all of them and compares this page with what
came out.

* **yes**: it ran, and losses, gradients and updates agreed with the serial run ([parity](parity.md)).
* **a letter**: the plan refuses it, with the rule below, before anything starts.
* **a number**: it falls short; the reason stands below.

"""


def page(outcomes):
    """The page as text."""
    rules, reasons, rows = {}, {}, []
    for name in MODELS:
        cells = []
        for column in COLUMNS:
            outcome = outcomes[name, column]
            if outcome == "works":
                cells.append("yes")
            elif outcome.startswith("refused: "):
                cells.append(rules.setdefault(outcome.removeprefix("refused: "), _letter(len(rules))))
            else:
                reason = SHORT.get((name, column), "not known yet")
                cells.append(reasons.setdefault(reason, str(len(reasons) + 1)))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    head = [f"| | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    notes = [f"* {mark}: {text}" for text, mark in {**rules, **reasons}.items()]
    return INTRODUCTION + "\n".join([*head, *rows, "", *notes]) + "\n"


def _letter(index):
    return "abcdefghijklmnopqrstuvwxyz"[index]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        PAGE.write_text(page(trained(Path(directory))))
