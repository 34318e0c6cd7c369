"""What a reader gets: one HTML page with charts, and CSV files.

Read in this order:

* `page.py` and `template/`: the page. `page_tables.py`: its cards and the table of runs.
* `check_tables.py`, `energy_tables.py`, `hardware_tables.py`, `inference_tables.py`: its other tables.
* `figures/`: one family of charts a file.
* `summary_csv.py`, `energy_columns.py`, `inference_csv.py`, `csv_cells.py`: tables for programs.
"""
