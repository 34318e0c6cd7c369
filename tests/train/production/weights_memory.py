"""`mpirun -n N python weights_memory.py RUN.json`: train it; each rank tells its peak of memory while weights are
written, beyond what it held before, in bytes."""

import json
import sys
from pathlib import Path

from hpc_accel.train.main import run_training
from hpc_accel.train.production import evaluations

write = evaluations.write_weights


def resident_bytes(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def watched(session, name):
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident_bytes("VmRSS")
    took_s = write(session, name)
    sys.stdout.write(json.dumps({"name": name, "bytes": resident_bytes("VmHWM") - before, "took_s": took_s}) + "\n")
    sys.stdout.flush()
    return took_s


evaluations.write_weights = watched
run_training(Path(sys.argv[1]))
