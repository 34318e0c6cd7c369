"""Two studies side by side, or a study and a baseline: what became slower, and how sure that is.

Read in this order:

* `side.py`: a study reduced to what is compared: configurations, their repeats, facts of software and machine; also the
  baseline file. `reduce.py` makes one of a results directory, `baseline.py` reads and writes it.
* `autocorrelation.py`: what the steps of one run tell, though they depend on each other.
* `student.py`, `spread.py`: the run-to-run spread of a configuration, and Student's distribution.
* `match.py`: which configurations compute the same, and what else differs.
* `judge.py`: ratios with intervals, and the verdict of each. `words.py`: the same for people.
* `cli.py`: `hpc-accel compare`.
"""
