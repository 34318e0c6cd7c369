"""What reads hardware. Importing this package imports nothing.

    sensor.py          what a sensor is: SensorInfo, Reading, the protocol, `absent`
    sources.py         the table of all sources; the meter starts one reader for each
    rapl, pm_counters, hwmon, intel    the kernel's files, through sysfs.py (bounded, with reasons and remedies)
    nvml.py            NVIDIA boards, listed by nvml_boards.py, chosen for this process by visible_gpus.py
    zeus_amd.py        AMD boards through the optional library Zeus

A new source is one file with `discover() -> list[Sensor]` and one line in sources.py. Read sensor.py, then rapl.py.
"""
