"""What the records mean: comparisons that the intervals bear out, and reasons for what is missing.

Read in this order:

* `statistics.py`: a value with its interval. `wording.py`: numbers as words.
* `ranking.py`: time, energy and cost per sample; the best run and its ties. `inference.py`: the same for inference.
* `metric.py`: the held-out metric against the serial run. `footprint.py`: joules as CO2 and money.
* `quantities.py`: what a run may lack, and why. `cells.py`: a value or its reason. `reasons.py`: gaps of a study.
* `differences.py`: what else differs between runs that are compared. `plausibility.py`: figures that are too good.
* `queue_time.py`: time before the first rank.
* `answer.py`: all of it in five lines.
"""
