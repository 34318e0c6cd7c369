"""The report of a study: reads the files its runs left, writes tables, a page and an answer. Nothing else.

Three floors, each of which imports only those below it:

* `load/`: what the runs left, as records that later code can trust.
* `judge/`: who is best for what, what is not plausible, what was not measured and why.
* `show/`: tables, charts, the page, CSV files.

`write.py` is the one door, `write(study_dir)`. Read it first, then `load/study_records.py`, `judge/ranking.py`,
`judge/answer.py` and `show/page.py`.
"""
