"""Slurm jobs: the script of a run, what it becomes when it starts, and what Slurm's accounting says of it afterwards.

* Before: `site.py` (a cluster's facts, compared with it in `compare_site.py`), `request.py` with
  `memory_option.py`, `frequency_options.py` and `further_options.py` (what a job asks for), `failure_rate.py` (how
  often its nodes fail), `launch_line.py` and `script.py` (the text), `write.py` (the files).
* During: `supervise.py` is the last line of a script; `allocation.py`, `placement.py`, `daemons.py` and `staging.py`
  look where it is, `preflight.py` whether the machine has what a launch needs, `lock.py` keeps a second start out,
  `child.py` starts the launcher, `launcher_words.py` reads what it says and `wake.py` wakes a frozen one; `attempt.py`,
  `diagnosis.py` and `restart.py` say how it ended, `again.py` whether it is measured once more, `history.py` what
  became of all attempts at a training to its end. `pack.py` lets runs take turns in one job; `run_script.py` and
  `submit.py` are how the workflow starts a script (`cli.py`), `failures.py` how it tells why one failed, and `queue.py`
  why jobs wait and what Ctrl-C left of them.
* Afterwards: `failure.py` (the record of a run that could not write one), `accounting.py`, `energy_accounting.py`.

Read `script.py` first, then `supervise.py`. What runs before every run imports neither pydantic nor torch.
"""
