"""What a reader gets: one HTML page with charts, and CSV files.

Read in this order:

* `page.py` and `template/`: the page. `cards.py`: its first screen. `run_table.py`: the table of runs.
* `page_tables.py`, `check_tables.py`, `energy_tables.py`, `hardware_tables.py`, `inference_tables.py`, `job_tables.py`,
  `production_tables.py`: its other tables.
* `figures/`: one family of charts a file.
* `summary_table.py`: the table of runs, whose columns are in `run_columns.py`, `energy_columns.py` and
  `inference_columns.py`. `summary_csv.py` shows some of them, `summary_parquet.py` and `summary_json.py` all.
* `inference_csv.py`: one row per arrival rate. `csv_cells.py`: values as CSV has them.
* `methods.py`: what a paper's methods section needs. `ro_crate.py`: the results as a research object.
* `open_metrics.py`, `mlflow_store.py`: the table of runs as other programs read it.
"""
