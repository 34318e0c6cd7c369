"""Each reader against a tree of known power; what is closed, absent or broken becomes a reason with a remedy."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hpc_accel.measure.energy.figure import EnergyFigure
from hpc_accel.measure.energy.meter import EnergyMeter
from hpc_accel.measure.energy.sensors import hwmon, intel, nvml, nvml_boards, pm_counters, rapl, visible_gpus, zeus_amd
from hpc_accel.measure.energy.sensors.sensor import SensorError
from tests.measure import trees

HERE = Path(__file__).parents[1]


@pytest.fixture
def sysfs(tmp_path, monkeypatch):
    monkeypatch.setenv("HPC_ACCEL_SYSFS", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def scopes(sensors) -> dict[str, str]:
    return {sensor.info.name: sensor.info.scope for sensor in sensors if sensor.info.is_available}


def measure(seconds: float, sample_hz: float = 0.0) -> EnergyFigure:
    meter = EnergyMeter(None, sample_hz=sample_hz)
    with meter.window("timed") as window:
        time.sleep(seconds)
    meter.close()
    return window.result


def test_rapl_zones_by_name_and_without_the_second_door(sysfs):
    with trees.Rising() as tree:
        trees.server(tree, sysfs)
        assert scopes(rapl.discover()) == {
            "intel-rapl:0 package-0": "cpu-package",
            "intel-rapl:0:0 core": "cpu-core",
            "intel-rapl:0:1 dram": "dram",
            "intel-rapl:10 psys": "platform",
        }


def test_the_root_may_hold_a_sys_directory(sysfs):
    with trees.Rising() as tree:
        trees.rapl_zone(tree, sysfs / "sys", "intel-rapl:0", "package-0", 100.0)
        assert scopes(rapl.discover()) == {"intel-rapl:0 package-0": "cpu-package"}


def test_a_known_power_over_many_wraps(sysfs):
    """100 W on a counter of 200 J: it begins anew every two seconds, and the thread must have looked in between."""
    with trees.Rising() as tree:
        trees.rapl_zone(tree, sysfs, "intel-rapl:0", "package-0", 100.0, wrap_j=200.0, start_j=150.0)
        trees.rapl_zone(tree, sysfs, "intel-rapl:0:0", "dram", 10.0)
        energy = measure(5.0)
    assert energy.power_w == pytest.approx(110.0, rel=0.01)
    assert energy.scope == "CPU packages + DRAM"
    assert energy.method == "counter"
    assert energy.resolution_warning is False


def test_closed_counters_are_a_reason_with_the_mode_and_the_remedy(monkeypatch):
    """Not as root, whom no file mode stops: a child gives its rights away first."""
    with tempfile.TemporaryDirectory() as directory, trees.Rising() as tree:
        sysfs = Path(directory)
        sysfs.chmod(0o755)
        monkeypatch.setenv("HPC_ACCEL_SYSFS", directory)
        trees.rapl_zone(tree, sysfs, "intel-rapl:0", "package-0", 100.0).chmod(0o000)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                os.write(writer, json.dumps(measure(0.2).as_dict()).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            energy = EnergyFigure.from_dict(json.loads(pipe.read()))
        os.waitpid(child, 0)
    assert energy.energy_j is None
    assert energy.method == "none"
    assert "energy_uj: permission denied (mode 0000)" in energy.reason
    assert "chmod a+r" in energy.remedy


def test_garbage_in_a_counter_is_a_reason(sysfs):
    with trees.Rising() as tree:
        trees.rapl_zone(tree, sysfs, "intel-rapl:0", "package-0", 100.0)
        (sysfs / "class/powercap/intel-rapl:0/energy_uj").write_text("n/a".ljust(trees.WIDTH))
        tree._files.clear()
        (sensor,) = rapl.discover()
    assert not sensor.info.is_available
    assert "'n/a' is not a number" in sensor.info.reason


def test_pm_counters_node_and_parts(sysfs):
    with trees.Rising() as tree:
        trees.pm_counters(tree, sysfs)
        assert scopes(pm_counters.discover()) == {
            "pm_counters energy": "node",
            "pm_counters cpu_energy": "cpu-package",
            "pm_counters accel0_energy": "gpu-board",
            "pm_counters accel1_energy": "gpu-board",
        }
        energy = measure(3.0)
    assert energy.scope == "whole nodes"
    assert energy.power_w == pytest.approx(500.0, rel=0.01)
    assert energy.resolution_warning is True


def test_pm_counters_reset_in_between_has_no_figure(sysfs):
    with trees.Rising() as tree:
        trees.pm_counters(tree, sysfs, generation=lambda s: "1" if s < 0.6 else "2")
        energy = measure(1.2)
    assert energy.energy_j is None
    assert "reset" in energy.reason


def test_pm_counters_that_stand_still_have_no_figure(sysfs):
    tree = trees.Rising()
    trees.pm_counters(tree, sysfs)
    energy = measure(0.5)
    assert energy.energy_j is None
    assert "stuck" in energy.reason


def test_pm_counters_in_another_unit_are_not_believed(sysfs):
    directory = trees.pm_counters(trees.Rising(), sysfs)
    with pytest.raises(SensorError, match="unit 'W'"):
        pm_counters.PmCounter(pm_counters.discover()[0].info, _written(directory / "cpu_energy", "5 W 7 us")).read()


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_graces_zones_nest_and_are_integrated(sysfs):
    for number, (label, power_w) in enumerate(
        [
            ("Module Power Socket 0", 300),
            ("Grace Power Socket 0", 90),
            ("CPU Power Socket 0", 60),
            ("SysIO Power Socket 0", 20),
        ]
    ):
        trees.meter(sysfs, number, label, power_w)
    assert sorted(scopes(hwmon.discover()).values()) == ["grace", "grace-cpu", "grace-sysio", "module"]
    energy = measure(1.0)
    assert energy.scope == "modules (CPU + GPU)"
    assert energy.method == "integrated-power"
    assert energy.power_w == pytest.approx(300.0, rel=0.01)


def test_an_acpi_meter_is_labelled_as_one(sysfs):
    trees.meter(sysfs, 0, "", 240)
    assert scopes(hwmon.discover()) == {"hwmon0 ACPI power meter": "node"}


def test_intel_card_and_tile_and_a_counter_at_zero(sysfs):
    with trees.Rising() as tree:
        for number, (driver, power_w, start_j) in enumerate([("i915", 80, 5.0), ("i915_gt0", 40, 5.0), ("xe", 0, 0.0)]):
            directory = sysfs / "class/hwmon" / f"hwmon{number}"
            tree.counter(directory / "energy1_input", power_w, start_j=start_j)
            (directory / "name").write_text(driver + "\n")
        assert scopes(intel.discover()) == {
            "i915 hwmon0": "gpu-card", "i915_gt0 hwmon1": "gpu-tile", "xe hwmon2": "gpu-card",
        }  # fmt: skip
        energy = measure(2.0)
    assert energy.power_w == pytest.approx(80.0, rel=0.03)
    assert energy.is_partial is True
    assert "did not change" in energy.reason


def test_nothing_at_all_is_null_with_reasons(sysfs):
    energy = measure(0.01)
    assert energy.energy_j is None
    assert energy.method == "none"
    assert energy.reason.startswith("no energy sensor on this node")
    assert "0 J" not in json.dumps(energy.as_dict())
    meter = EnergyMeter(None)
    assert all(row["reason"] and not row["available"] for row in meter.describe())
    assert {row["source"] for row in meter.describe()} >= {"rapl", "nvml", "pm_counters", "hwmon", "intel", "zeus"}
    meter.close()


def test_the_shortest_sensible_window_is_that_of_the_totals_sensors(sysfs):
    with EnergyMeter(None) as meter:
        assert meter.min_window_s == 0
    trees.meter(sysfs, 0, "Grace Power Socket 0", 90)
    trees.meter(sysfs, 1, "SysIO Power Socket 0", 20)
    (sysfs / "class/hwmon/hwmon1/power1_average_interval").write_text("5000\n")
    with EnergyMeter(None) as meter:
        assert meter.min_window_s == pytest.approx(10.0)


def test_windows_may_lie_within_each_other_or_be_empty(sysfs):
    with trees.Rising() as tree:
        trees.rapl_zone(tree, sysfs, "intel-rapl:0", "package-0", 100.0)
        with EnergyMeter(None) as meter, meter.window("outer") as outer:
            with meter.window("empty") as empty:
                pass
            with meter.window("inner") as inner:
                time.sleep(1.0)
            time.sleep(0.5)
    assert inner.result.energy_j == pytest.approx(100, rel=0.03)
    assert outer.result.power_w == pytest.approx(100, rel=0.03)
    assert outer.result.energy_j > inner.result.energy_j * 1.3
    assert empty.result.window_s >= 0
    assert empty.result.energy_j is None or empty.result.energy_j > 0


def test_idle_power_is_measured_at_the_start_and_stands_beside(sysfs):
    with trees.Rising() as tree:
        path = trees.rapl_zone(tree, sysfs, "intel-rapl:0", "package-0", 0.0)
        path.unlink()
        start = time.perf_counter()
        tree.add(path, lambda s: str(round((100 + 40 * s + max(0.0, 60 * (s - 1.2))) * 1e6)))
        with EnergyMeter(None) as meter:
            meter.measure_idle(0.8)
            time.sleep(max(0.0, 1.5 - (time.perf_counter() - start)))
            with meter.window("timed") as timed:
                time.sleep(1.5)
    assert timed.result.idle_power_w == pytest.approx(40, rel=0.03)
    assert timed.result.power_w == pytest.approx(100, rel=0.03)
    above_w = timed.result.energy_above_idle_j / timed.result.window_s
    assert above_w == pytest.approx(60, rel=0.05)


def test_sampled_power_of_a_counter(sysfs):
    with trees.Rising() as tree:
        trees.rapl_zone(tree, sysfs, "intel-rapl:0", "package-0", 100.0)
        meter = EnergyMeter(None, sample_hz=10)
        with meter.window("timed"):
            time.sleep(1.5)
        (series,) = meter.power_series()
        meter.close()
    assert 10 <= len(series.times_ns) <= 20
    lengths = [end - start for start, end in itertools.pairwise(series.times_ns)]
    energy = sum(power * length for power, length in zip(series.powers_w[1:], lengths, strict=True))
    assert energy / sum(lengths) == pytest.approx(100.0, rel=0.05)


def test_amd_without_zeus_names_the_remedy(sysfs, monkeypatch):
    (sysfs / "class/kfd").mkdir(parents=True)
    monkeypatch.setenv("HPC_ACCEL_TESTING", "1")
    monkeypatch.setenv("HPC_ACCEL_ZEUS_MODULE", "no_such_library")
    (sensor,) = zeus_amd.discover()
    assert "hpc-accel[energy]" in sensor.info.remedy


def test_amd_boards_of_two_dies_count_once_and_broken_counters_are_integrated(sysfs, monkeypatch):
    (sysfs / "class/kfd").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(HERE))
    for variable, value in (("TESTING", "1"), ("ZEUS_MODULE", "fake_zeus"), ("AMDSMI_MODULE", "fake_zeus")):
        monkeypatch.setenv(f"HPC_ACCEL_{variable}", value)
    energy = measure(0.5)
    assert energy.power_w == pytest.approx(600.0, rel=0.02)
    assert energy.method == "integrated-power"
    assert energy.is_partial is False
    assert [sensor.key for sensor in energy.sensors] == ["amd/0000:c1:00.0", "amd/0000:d1:00.0"]


@pytest.mark.parametrize(
    ("value", "chosen", "words"),
    [
        (None, [0, 1, 2], ""),
        ("1", [1], ""),
        ("2,0", [2, 0], ""),
        ("GPU-bb", [1], ""),
        ("", [], "is empty"),
        (" ", [], "is empty"),
        ("MIG-GPU-aa/1/0", [], "MIG slice"),
        ("0,9,1", [0], "'9'"),
        ("-1", [], "'-1'"),
        ("GPU-", [], "'GPU-'"),
    ],
)
def test_visible_devices_as_cuda_reads_them(value, chosen, words):
    found, reason = visible_gpus.select(value, ["GPU-aaaa", "GPU-bbbb", "GPU-cccc"])
    assert found == chosen
    assert (words in reason) if words else (reason == "")


def gpu_run(seconds: float, start_limit_s: float = 10.0, **environment: str) -> tuple[EnergyFigure, float]:
    """A process of its own, since a stub chooses its fault at import; and seconds that the meter cost."""
    code = (
        "import json, sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from hpc_accel.measure.energy import meter, reader; limit = float(sys.argv[3])\n"
        "meter.DISCOVER_TIMEOUT_S = reader.DISCOVER_TIMEOUT_S = limit\n"
        "t = time.perf_counter(); m = meter.EnergyMeter(None)\n"
        "with m.window('timed') as w: time.sleep(float(sys.argv[2]))\n"
        "took = time.perf_counter() - t - float(sys.argv[2])\n"
        "print(json.dumps([w.result.as_dict(), took]))\n"
    )
    environment = os.environ | {
        "HPC_ACCEL_TESTING": "1", "HPC_ACCEL_NVML_MODULE": "fake_nvml", "HPC_ACCEL_SYSFS": "/nonexistent",
    } | environment  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, str(HERE), str(seconds), str(start_limit_s)],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    figure, took_s = json.loads(done.stdout)
    return EnergyFigure.from_dict(figure), took_s


def test_two_gpus_by_their_counters():
    energy, _ = gpu_run(1.0)
    assert energy.power_w == pytest.approx(600.0, rel=0.01)
    assert energy.scope == "GPU boards"
    assert energy.resolution_warning is True


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("import", "driver library is of another version"),
        ("import-exit", "SystemExit"),
        ("init", "Driver Not Loaded"),
        ("read", "GPU is lost"),
        ("zero", "did not change"),
        ("mig", "MIG is on"),
    ],
)
def test_a_broken_gpu_library_is_a_reason_not_a_failure(fault, words):
    energy, _ = gpu_run(0.1, FAKE_NVML_FAULT=fault)
    assert energy.energy_j is None
    assert words in json.dumps(energy.as_dict()) or fault in ("import", "init")
    assert energy.reason


def test_blocking_reads_cost_a_bounded_time():
    energy, took_s = gpu_run(0.1, FAKE_NVML_FAULT="block-read")
    assert energy.energy_j is None
    assert "did not return within 2 s" in energy.reason
    assert took_s < 5


def test_a_blocking_driver_costs_a_bounded_time_at_start():
    energy, took_s = gpu_run(0.1, start_limit_s=1.5, FAKE_NVML_FAULT="block-init")
    assert energy.energy_j is None
    assert "did not answer within 1.5 s" in energy.reason
    assert took_s < 5


def test_one_lost_gpu_leaves_a_partial_total():
    energy, _ = gpu_run(0.3, FAKE_NVML_FAULT="read-one")
    assert energy.is_partial is True
    assert energy.power_w == pytest.approx(300.0, rel=0.05)


def test_a_gpu_without_counter_is_integrated():
    energy, _ = gpu_run(0.5, FAKE_NVML_FAULT="no-counter")
    assert energy.method == "integrated-power"
    assert energy.power_w == pytest.approx(600.0, rel=0.01)


def test_gh200_counts_the_module():
    assert gpu_run(0.2, FAKE_NVML_FAULT="gh200")[0].scope == "modules (CPU + GPU)"


def test_an_empty_list_of_gpus_says_so():
    energy, _ = gpu_run(0.05, CUDA_VISIBLE_DEVICES="")
    assert energy.energy_j is None
    assert energy.sensors == ()


def test_the_stub_is_ignored_outside_of_tests():
    energy, _ = gpu_run(0.05, HPC_ACCEL_TESTING="0")
    assert energy.energy_j is None


def test_importing_and_starting_the_sensors_takes_little_time():
    """Processor time, which other work on this machine does not change."""
    code = (
        "import time; t = time.process_time(); import sys; from hpc_accel.measure.energy.meter import EnergyMeter;"
        "assert 'pynvml' not in sys.modules and 'torch' not in sys.modules and 'zeus' not in sys.modules;"
        "EnergyMeter(None); print(time.process_time() - t)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert float(done.stdout) <= 0.3


def test_without_a_driver_the_library_is_not_even_loaded(sysfs, monkeypatch):
    monkeypatch.setattr(nvml_boards, "DRIVER", (sysfs / "none",))
    monkeypatch.setattr(nvml_boards.importlib, "import_module", lambda name: pytest.fail(f"{name} was loaded"))
    (sensor,) = nvml.discover()
    assert sensor.info.reason == "no NVIDIA driver here"


def test_a_driver_without_a_library_is_a_reason(sysfs, monkeypatch):
    monkeypatch.setattr(nvml_boards, "DRIVER", (sysfs,))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (sensor,) = nvml.discover()
    assert "NVML gives no GPU" in sensor.info.reason
    assert not sensor.info.is_available
