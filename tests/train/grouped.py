"""`python -m tests.train.grouped RESULTS`: train a planned study, all runs of a number of ranks in one launch.

The same runs as one job each would train, without starting Python and MPI anew for each of them.
"""

import json
import sys
from pathlib import Path

from tests.mpirun import check, mpirun
from tests.train.test_layouts import SCRIPT

TIMEOUT_S = 900


def main(results: Path) -> None:
    plan = json.loads((results / "plan.json").read_text())
    by_ranks: dict[int, list[Path]] = {}
    for candidate in plan["candidates"]:
        path = results.resolve() / "runs" / candidate["run_id"] / "run.json"
        if candidate["chosen"] and not (path.parent / "summary.json").exists():
            layout = candidate["layout"]
            by_ranks.setdefault(layout["dp"] * layout["pp"] * layout["tp"], []).append(path)
    for num_ranks, paths in sorted(by_ranks.items()):
        print(f"{len(paths)} run(s) on {num_ranks} rank(s)", flush=True)
        check(mpirun(num_ranks, [SCRIPT, *paths], TIMEOUT_S))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
