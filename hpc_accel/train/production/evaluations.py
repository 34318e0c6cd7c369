"""Every so many steps: the metric on held-out data, the mean loss since the last time, the best weights so far.

An evaluation leaves training as it is: it draws its random numbers from copies of the generators. What it finds is the
same on all ranks, and goes into the checkpoints, so that an attempt that goes on knows what earlier ones found.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from hpc_accel.jobs import history
from hpc_accel.parallel.loss_device import move_loss
from hpc_accel.record import parts
from hpc_accel.record.production import Ending, read_forecast
from hpc_accel.runtime import hang
from hpc_accel.train import efficiency
from hpc_accel.train.evaluate import evaluate
from hpc_accel.train.production.metric_files import MetricFiles, column
from hpc_accel.train.production.slow_periods import slow_period
from hpc_accel.train.production.weights import write_weights
from hpc_accel.train.setup import Session
from hpc_accel.train.step_table import StepTable, busy_ms
from hpc_accel.workloads.stream import Stream, num_samples_of

NO_METRIC_YET = "the metric was not computed"


class Evaluations:
    """Those of one training. Every method is collective."""

    def __init__(self, session: Session, table: StepTable, drain: Callable[[], Sequence[Any]] | None) -> None:
        assert session.run.production is not None
        self.asked = session.run.production
        self.metric: parts.Metric | None = None
        """The last one, on rank 0."""
        self.ending: Ending = "all steps"
        self._session, self._table, self._drain = session, table, drain
        earlier = session.earlier["production"] or {}
        self.rows: list[dict[str, Any]] = list(earlier.get("rows", ()))
        self.slow: list[str] = list(earlier.get("slow", ()))
        self.weights_s: float = earlier.get("weights_s", 0.0)
        self._earlier_checkpoints_s: float = earlier.get("checkpoints_s", 0.0)
        self.forecast = session.comm.bcast(read_forecast(session.directory) if session.rank == 0 else None)
        self._files = MetricFiles(session.directory, session.first_step) if session.rank == 0 else None
        if session.rank == 0:
            history.note(session.directory, "steps", step=session.first_step)

    def state(self, checkpoints_s: float) -> dict[str, Any]:
        """For a checkpoint; `checkpoints_s` is how long training stood still for saves of this attempt."""
        kept = {"rows": self.rows, "slow": self.slow, "weights_s": self.weights_s}
        return {**kept, "checkpoints_s": self.checkpoints_s(checkpoints_s)}

    def checkpoints_s(self, of_this_attempt: float) -> float:
        """How long training stood still for saves, in all attempts whose steps count."""
        return self._earlier_checkpoints_s + of_this_attempt

    def note_saved(self, step: int) -> None:
        """The state after `step` steps goes into a checkpoint."""
        if self._session.rank == 0:
            history.note(self._session.directory, "saved", step=step)

    def look(self, done: int, total: int) -> bool:
        """After each step: evaluate if it is time to; true where training has come to its end early."""
        if done % self.asked.evaluate_every_steps and done < total:
            return False
        session = self._session
        session.stepper.settle()
        session.hang.enter(hang.EVALUATION, done)
        began = time.perf_counter()
        row = self._row(done)
        with _undisturbed(session.device):
            self.metric = evaluate(session.stepper, session.workload, session.comm, session.run.measure.metric_samples)
        move_loss(session.workload.loss, session.device)
        if self._drain is not None:
            self._drain()  # what was sent here belongs to no step
        found = session.comm.bcast(_found(self.metric) if self.metric is not None else None)
        self.rows.append({**row, **found, "evaluation_s": session.comm.bcast(time.perf_counter() - began)})
        is_best = self.best() is self.rows[-1]
        if is_best:
            session.hang.enter(hang.CHECKPOINT, done)
            self.weights_s += session.comm.bcast(write_weights(session, "best"))
        self._tell(total, is_best)
        return self._has_ended() and done < total

    def finish(self) -> None:
        """After the last step: the weights as they are."""
        self._session.hang.enter(hang.CHECKPOINT, self.rows[-1]["step"])
        self.weights_s += self._session.comm.bcast(write_weights(self._session, "last"))
        if self._files is not None:
            self._files.close()

    def best(self) -> dict[str, Any] | None:
        """The row of the best metric, the first of several; None where it was never computed."""
        known = [row for row in self.rows if row["value"] is not None]
        if not known:
            return None
        metric = self._session.workload.metric
        assert metric is not None
        return max(known, key=lambda row: row["value"] if metric.higher_is_better else -row["value"])

    def _has_ended(self) -> bool:
        best, metric = self.best(), self._session.workload.metric
        if best is None or metric is None:
            return False
        target = self.asked.target_metric
        reached = target is not None and (
            best["value"] >= target if metric.higher_is_better else best["value"] <= target
        )
        if reached:
            self.ending = "target reached"
        elif self.asked.patience is not None and len(self.rows) - 1 - self.rows.index(best) >= self.asked.patience:
            self.ending = "no better"
        return self.ending != "all steps"

    def _row(self, done: int) -> dict[str, Any]:
        """What the steps since the last evaluation were like."""
        session, comm = self._session, self._session.comm
        before = self.rows[-1]["step"] if self.rows else 0
        rows = [row for row in self._table.all()[before - done :] if row["step"] >= before]
        rows = rows[-comm.allreduce(len(rows), min) :]  # one rank may have lost those of an earlier attempt
        losses = [row["loss"] for row in rows if row["loss"] is not None]
        means = [each for each in comm.allgather(float(np.mean(losses)) if losses else None) if each is not None]
        step_ms = self._slowest(rows)
        busy = float(np.median([busy_ms(row) for row in rows]))
        if told := slow_period(comm, step_ms, busy, before, done, self.forecast):
            self.slow.append(told)
        batch = session.run.workload.global_batch_size
        tokens, (samples, epoch) = efficiency.tokens_per_sample(session.workload), self._seen(done)
        typical_ms = float(np.median(step_ms))
        row = {
            "step": done,
            "epoch": epoch,
            "samples": samples,
            "tokens": samples * tokens if tokens is not None else None,
            "loss": float(np.mean(means)) if means else None,
            "learning_rate": rows[-1]["learning_rate"],
            "step_time_ms": typical_ms,
            "throughput_samples_per_s": batch / typical_ms * 1e3,
            "training_s": (self.rows[-1]["training_s"] if self.rows else 0.0) + sum(step_ms) / 1e3,
        }
        found: dict[str, Any] = comm.bcast(row)
        return found

    def _seen(self, done: int) -> tuple[int, float | None]:
        """Samples that `done` steps used, and epochs; None where a stream does not know its length."""
        session, sampler = self._session, self._session.stepper.sampler
        batch, total = session.run.workload.global_batch_size, num_samples_of(session.workload.dataset)
        if total is None:
            return done * batch, None
        if isinstance(session.workload.dataset, Stream):
            return done * batch, done * batch / (total - total % batch)
        # The last batch of an epoch may be a short one.
        epochs, rest = divmod(done, sampler.batches_per_epoch)
        each = total - sampler.samples_dropped_per_epoch
        return epochs * each + rest * batch, epochs + rest * batch / each

    def _slowest(self, rows: list[dict[str, Any]]) -> list[float]:
        """Each step's time at the rank that took longest, in ms."""
        from mpi4py import MPI

        mine = np.array([row["step_ns"] for row in rows], dtype=np.int64)
        longest = np.empty_like(mine)
        self._session.comm.Allreduce(mine, longest, MPI.MAX)
        return [int(each) / 1e6 for each in longest]

    def _tell(self, total: int, is_best: bool) -> None:
        if self._files is None:
            return
        row, metric = self.rows[-1], self.metric
        history.note(self._session.directory, "evaluated", step=row["step"])
        self._files.write(self.rows, metric.name if metric is not None else None)
        words = [f"step {row['step']} of {total}: loss {row['loss']:.4g}"]
        if metric is not None and metric.name is not None:
            told = f"{row['value']:.4g}" if row["value"] is not None else metric.reason
            words.append(f"{metric.name} {told}{' (the best so far)' if is_best else ''}")
        sys.stderr.write(", ".join(words) + "\n")
        sys.stderr.flush()


def _found(metric: parts.Metric) -> dict[str, Any]:
    """What of an evaluation is kept in its row."""
    return {"value": metric.value, "also": {column(name): value for name, value in metric.also.items()}}


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Inside, generators may be used; afterwards they are as before."""
    devices = [device] if device.type == "cuda" else []
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        yield
    random.setstate(python)
    np.random.set_state(numpy)
