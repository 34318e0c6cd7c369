"""What card, driver and libraries this is, and what must hold before anything else: sensors and streams."""

from __future__ import annotations

import platform
import shutil
import threading
import time

import torch

from benchmarks.gpu.say import DEVICE, PRETENDED, figure, verdict


def libraries() -> None:
    """Versions of what computes and communicates."""
    import polars
    from mpi4py import MPI

    figure("python", platform.python_version())
    figure("torch", torch.__version__)
    figure("cuda", torch.version.cuda)
    figure("polars", polars.__version__)
    figure("mpi", MPI.Get_library_version().splitlines()[0][:60])
    figure("mpi_threads", MPI.Query_thread() == MPI.THREAD_MULTIPLE)
    figure("shared_memory_mib", shutil.disk_usage("/dev/shm").total / 2**20, "MiB")


def card() -> None:
    """The GPU, and whether NVML means the same one."""
    import pynvml

    properties = torch.cuda.get_device_properties(0)
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    figure("card", properties.name)
    figure("memory_gb", properties.total_memory / 1e9, "GB")
    figure("driver", pynvml.nvmlSystemGetDriverVersion())
    figure("cudnn", torch.backends.cudnn.version())
    figure("nccl", ".".join(map(str, torch.cuda.nccl.version())))
    figure("power_limit_w", pynvml.nvmlDeviceGetPowerManagementLimit(handle) / 1e3, "W")
    figure("sm_clock_max_mhz", pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM), "MHz")
    uuid = pynvml.nvmlDeviceGetUUID(handle)
    verdict("torch and NVML name the same board", f"GPU-{properties.uuid}" == uuid, f"GPU-{properties.uuid}, {uuid}")
    figure("energy_counter_mj", pynvml.nvmlDeviceGetTotalEnergyConsumption(handle), "mJ")


def streams() -> None:
    """How this torch takes one Stream object that several threads enter, which the backend avoids."""
    stream = torch.Stream(device="cuda:0")
    errors: list[str] = []

    def enter() -> None:
        source, target = torch.zeros(10**6, device="cuda"), torch.empty(10**6, pin_memory=True)
        for _ in range(1000):
            try:
                with stream:
                    target.copy_(source, non_blocking=True)
            except RuntimeError as error:
                errors.append(str(error).splitlines()[0])

    threads = [threading.Thread(target=enter) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    figure("one Stream object in two threads: errors in 2000", len(errors))
    figure("their message", errors[0] if errors else "none")


def bookkeeping() -> None:
    """What a run spends on knowing where it is, beside its steps."""
    from mpi4py import MPI

    from hpc_accel.measure import provenance
    from hpc_accel.measure.energy import gpus_in_use
    from hpc_accel.measure.energy.meter import EnergyMeter

    began = time.perf_counter()
    with EnergyMeter(MPI.COMM_WORLD, sample_hz=10.0, gpu=gpus_in_use.uuid_of(DEVICE)) as meter:
        found = time.perf_counter()
        with meter.window("nothing"):
            pass
        ended = time.perf_counter()
    closed = time.perf_counter()
    provenance.collect()
    figure("sensors found", found - began, "s")
    figure("an empty window", ended - found, "s")
    figure("sensors closed", closed - ended, "s")
    figure("provenance", time.perf_counter() - closed, "s")


if __name__ == "__main__":
    libraries()
    bookkeeping()
    if not PRETENDED:
        card()
        streams()
