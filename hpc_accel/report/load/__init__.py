"""What a study's runs left behind, loaded: a missing or broken file never stops the report.

Read in this order:

* `run_record.py`: one run, planned, resolved and measured.
* `study_records.py`: all runs of a study, its plan and hardware; `load` reads them.
* `run_status.py`: whether a run counts.
* `repeats.py`: repeats of one configuration as one record.
* `overlaps.py`: runs and jobs that were on one node at the same time.
* `trainings.py`: trainings to their end.
* `labels.py`: what a run is called.
* `safe_json.py`: every value enters through it.
"""
