"""How good the planner is on what others measured: every set of `benchmarks/data`, with and without measured blocks.

    python benchmarks/planner.py [--study results/quickstart]

prints the tables and writes benchmarks/results/planner-<date>.json; --study adds what was predicted of a study's runs.

Nothing of the hardware is fitted: its files come from published tables. The mapping file of each set says what of the
program was measured on these very rows, and how. Beside the planner stand one constant rate and the rule "smallest tp,
then smallest pp, then largest micro-batch".
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

from hpc_accel.plan.evaluate.results import evaluate_results
from hpc_accel.plan.evaluate.run import evaluate
from hpc_accel.plan.evaluate.show import results_table, table

HERE = Path(__file__).parent
SETS = (
    ("a100_single_node_dev.csv", "a100-sxm-80gb", (0, 1, 3)),
    ("h100_sweep_dev.csv", "h100-sxm", (0, 1, 3)),
    ("fsdp_a100_40gb_dev.csv", "a100-sxm-40gb", (0, 1)),
    ("megatron_memory_a100_dev.csv", "a100-sxm-80gb", (0,)),
)
"""Table, hardware, and how many measured rows of each kind of block; 0 for none."""


def main() -> None:
    """Judge every set, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    parser.add_argument("--data", type=Path, default=HERE / "data", help="directory of the tables")
    parser.add_argument(
        "--study", type=Path, nargs="*", default=[], help="results of studies, judged by their own runs"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / f"planner-{today}.json")
    arguments = parser.parse_args()
    results = []
    for name, hardware, measured in SETS:
        for calibrate in measured:
            found = evaluate(arguments.data / name, hardware, calibrate=calibrate)
            results.append(found)
            print("\n".join(table(found)), end="\n\n")
    studies = [evaluate_results(study) for study in arguments.study]
    for found in studies:
        print("\n".join(results_table(found)), end="\n\n")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"results": results, "studies": studies}, indent=1) + "\n")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
