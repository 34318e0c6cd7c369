"""What one rank sees of an inference run: full batches, each arrival rate, the search, generation, answers.

Each part is an energy window of its own. A warning signal ends the run between two parts; there is nothing to save, so
the next attempt starts from the beginning. Collective throughout.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from hpc_accel.errors import RetryableError
from hpc_accel.infer import latency
from hpc_accel.infer.compare_with_serial import compared
from hpc_accel.infer.generate import Generator, generation_facts
from hpc_accel.infer.open_loop import LoadWindow, open_loop
from hpc_accel.infer.outputs import Compared, answers, spread
from hpc_accel.infer.rate_search import max_rate
from hpc_accel.infer.setup import Session
from hpc_accel.infer.warmup import run_sizes
from hpc_accel.measure import clock, peak_memory
from hpc_accel.measure.energy import gpus_in_use
from hpc_accel.measure.energy.figure import EnergyFigure
from hpc_accel.measure.energy.meter import EnergyMeter
from hpc_accel.record.figure import Fraction, Milliseconds
from hpc_accel.record.inference import Generation, Limit, Rate
from hpc_accel.record.measured import request_energy, token_energy
from hpc_accel.record.parts import Disturbance
from hpc_accel.runtime import stop
from hpc_accel.runtime.device import unused_gpus_here
from hpc_accel.runtime.disturbance import DisturbanceWatch
from hpc_accel.runtime.gpu_frequency import GpuFrequency
from hpc_accel.runtime.precision import arithmetic
from hpc_accel.runtime.set_frequencies import applied
from hpc_accel.runtime.waiting import SAMPLE_HZ, quiet_barrier

NO_CACHE = "tokens were generated without a cache, which is the reference"
NOT_FINITE = "logits are not finite"


@dataclass(frozen=True, kw_only=True)
class Observations:
    """What was seen; on ranks other than 0 only `memory_bytes` is whole."""

    batches: list[dict[str, Any]]
    energy: EnergyFigure
    windows: list[tuple[str, LoadWindow]]
    rates: list[Rate]
    limit: Limit
    generated: list[Generation]
    compared: Compared | None
    memory_bytes: dict[str, int | None]
    """The most this rank had: `peak`, and of a GPU what torch `reserved` and what the device has `used`."""
    disturbance: Disturbance | None
    """On rank 0."""
    gpu_clock_note: str
    """What the GPU's clock was if not the one asked for; "" otherwise."""
    notes: dict[str, str]


def infer(session: Session, progress: Callable[[int, int], None]) -> Observations:
    """All parts of the run. Raises RetryableError on all ranks after a warning signal."""
    base = clock.synchronise(session.comm)
    with (
        torch.no_grad(),
        arithmetic(session.run.recipe.precision),
        applied(session.run.recipe, session.device) as gpu_clock,
        EnergyMeter(session.comm, sample_hz=SAMPLE_HZ, gpu=gpus_in_use.uuid_of(session.device)) as meter,
    ):
        meter.measure_idle(session.run.measure.idle_s)
        parts = _Parts(session, meter, gpu_clock, progress)
        parts.run()
        timebase = clock.Timebase(first=base, last=clock.synchronise(session.comm))
        note = meter.write_samples(session.directory / "energy.parquet", timebase)
        gpu_clock_note = gpu_clock.told(session.comm)
        disturbance = parts.disturbance.found(session.comm)
        asked = session.infer.batch_size, session.run.measure.metric_samples
        mine = session.replica.drive(lambda: answers(session.workload, session.replica.run, *asked))
        apart = spread(session.comm, mine)
    beside_serial = compared(session, mine, apart) if session.rank == 0 and mine is not None else None
    quiet_barrier(session.comm)
    notes = {"energy.parquet": note, "device": unused_gpus_here(session.run) or ""}
    return Observations(
        batches=parts.batches,
        energy=parts.energy,
        windows=parts.windows,
        rates=parts.rates,
        limit=parts.limit,
        generated=parts.generated,
        compared=beside_serial,
        memory_bytes=parts.memory_bytes,
        disturbance=disturbance,
        gpu_clock_note=gpu_clock_note,
        notes={name: why for name, why in notes.items() if why},
    )


class _Parts:
    """The measured parts of the run, one after the other."""

    def __init__(
        self, session: Session, meter: EnergyMeter, gpu_clock: GpuFrequency, progress: Callable[[int, int], None]
    ) -> None:
        self.session = session
        self.meter = meter
        self.gpu_clock = gpu_clock
        self.disturbance = DisturbanceWatch()
        self.batches: list[dict[str, Any]] = []
        self.energy = EnergyFigure.missing("the full batches were not measured")
        self.windows: list[tuple[str, LoadWindow]] = []
        self.rates: list[Rate] = []
        self.limit: Limit
        self.generated: list[Generation] = []
        self.memory_bytes: dict[str, int | None] = {}
        self._progress = progress
        generate = session.infer.generate
        self._total = 2 + len(session.infer.arrival_rates_per_s) + (len(generate.kv_cache) if generate else 0)
        self._done = 0

    def run(self) -> None:
        """All of them."""
        session, infer = self.session, self.session.infer
        peak_memory.reset_peak(session.device)
        self._full_batches()
        for rate in infer.arrival_rates_per_s:
            self._rate(rate)
        self.limit = max_rate(infer, self._measured(), self._capacity_per_s(), self._searched)
        self._end_of_part()
        if infer.generate is not None:
            for kv_cache in infer.generate.kv_cache:
                self._generate(kv_cache=kv_cache)
        self._note_memory()

    def _note_memory(self) -> None:
        device = self.session.device
        now = {
            "peak": peak_memory.peak_bytes(device),
            "reserved": peak_memory.reserved_bytes(device),
            "used": peak_memory.device_used_bytes(device),
        }
        for name, value in now.items():
            known = [each for each in (value, self.memory_bytes.get(name)) if each is not None]
            self.memory_bytes[name] = max(known, default=None)

    def _end_of_part(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)
        if any(self.session.comm.allgather(stop.asked())) and self._done < self._total:
            raise RetryableError(
                f"asked to stop after {self._done} of {self._total} parts",
                "an inference run that gets SIGUSR1 ends; it is short and has nothing to continue from",
                "start it again, with a longer resources.time_limit_min",
            )

    def _full_batches(self) -> None:
        """Warm-up and timed batches, replicas side by side; every answer is waited for."""
        measure = self.session.run.measure
        warm = self.session.replica.drive(partial(self._times_ns, max(1, measure.warmup_steps)))
        run_sizes(self.session)
        # Looking at the machine takes milliseconds, so it stands outside of the window.
        with self.disturbance.watched(), self.meter.window("timed") as window, self.gpu_clock.watched():
            timed = self.session.replica.drive(partial(self._times_ns, measure.steps))
        self.energy = window.result
        mine = None if warm is None or timed is None else (warm, timed)
        gathered = self.session.comm.gather(mine, root=0)
        leaders = [each for each in gathered or [] if each is not None]
        for replica, (before, after) in enumerate(leaders):
            for step, duration_ns in enumerate([*before, *after]):
                row = {"step": step, "rank": replica, "warmup": step < len(before), "step_ns": duration_ns}
                self.batches.append(row)
        self._end_of_part()

    def _times_ns(self, count: int) -> list[int]:
        session, size = self.session, self.session.infer.batch_size
        times = []
        for number in range(count):
            inputs = session.samples(torch.arange(number * size, (number + 1) * size))
            began_ns = time.perf_counter_ns()
            session.replica.run(inputs)
            times.append(time.perf_counter_ns() - began_ns)
        return times

    def _capacity_per_s(self) -> float:
        """Samples per second of full batches back to back over all replicas; rank 0's figure holds for all."""
        timed = [row["step_ns"] for row in self.batches if not row["warmup"]]
        mean_s = sum(timed) / len(timed) / 1e9 if timed else 0.0
        mean_s = float(self.session.comm.bcast(mean_s, root=0))
        return self.session.run.workload.global_batch_size / mean_s

    def _rate(self, rate_per_s: float) -> None:
        infer = self.session.infer
        with self.meter.window(f"{rate_per_s:g}/s") as energy:
            window = open_loop(self.session, rate_per_s, infer.num_requests)
        if window is not None:
            self.windows.append(("rate", window))
            self.rates.append(self._rate_facts(window, energy.result))
        self._end_of_part()

    def _rate_facts(self, window: LoadWindow, energy: EnergyFigure) -> Rate:
        """What the window says. Joules are of the whole window, warm-up requests included."""
        log, counted = window.log, ~window.warmup
        waited_ms = (log.started_ns - log.scheduled_ns)[counted] / 1e6
        few = f"{len(waited_ms)} requests: p50 needs at least {latency.requests_needed(50)}"
        return Rate(
            rate_per_s=window.rate_per_s,
            num_requests=int(counted.sum()),
            num_warmup=int(window.warmup.sum()),
            latency_ms=latency.latency_facts(window.counted_ms),
            waiting_p50_ms=Milliseconds.of(latency.percentile_ms(waited_ms, 50), few),
            completed_per_s=latency.completed_per_s(log.scheduled_ns[counted], log.ended_ns[counted]),
            mean_batch=float(log.batch[counted].mean()),
            deadline=latency.deadline_facts(window.counted_ms, self.session.infer),
            energy=request_energy(energy, len(log.batch)),
        )

    def _measured(self) -> list[tuple[float, float | None]]:
        """The limit's percentile at the listed rates; rank 0's figures hold for all."""
        percentile = self.session.infer.limit_percentile
        mine = [(window.rate_per_s, latency.percentile_ms(window.counted_ms, percentile)) for _, window in self.windows]
        found: list[tuple[float, float | None]] = self.session.comm.bcast(mine, root=0)
        return found

    def _searched(self, rate_per_s: float, num_requests: int) -> float | None:
        window = open_loop(self.session, rate_per_s, num_requests)
        found = None
        if window is not None:
            self.windows.append(("search", window))
            found = latency.percentile_ms(window.counted_ms, self.session.infer.limit_percentile)
        answer: float | None = self.session.comm.bcast(found, root=0)
        return answer

    def _generate(self, *, kv_cache: bool) -> None:
        """Every replica generates the same prompts; once to warm up, then as often as steps are asked for."""
        session, wanted = self.session, self.session.infer.generate
        assert wanted is not None
        prompts = session.samples(torch.arange(session.infer.batch_size))[0]
        generator = Generator(session.model, session.replica.comm, wanted, prompts)
        first = generator(kv_cache=kv_cache, keep_logits=kv_cache)
        repeats = session.run.measure.steps
        with self.meter.window(f"generate, cache {kv_cache}") as window:
            times = [generator(kv_cache=kv_cache).token_ns for _ in range(repeats)]
        error = None
        if kv_cache:
            # The pass that checks is ours, not the model's: its logits of whole sequences count in no peak.
            self._note_memory()
            error = generator.cache_error(first)
            peak_memory.reset_peak(session.device)
        gathered = session.comm.gather(times if session.replica.is_leader else None, root=0)
        if session.rank == 0:
            leaders = [each for each in gathered if each is not None]
            whole = len(leaders) * len(prompts)
            facts = generation_facts(
                wanted, kv_cache, [times for each in leaders for times in each], whole, session.run.seed
            )
            cache_error = Fraction.of(error, NOT_FINITE if kv_cache else NO_CACHE)
            energy = token_energy(window.result, whole * wanted.tokens * repeats)
            self.generated.append(Generation(**facts, cache_max_rel_err=cache_error, energy=energy))
        self._end_of_part()
