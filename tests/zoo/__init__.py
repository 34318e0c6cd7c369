"""Models as people write them, trained in every layout: `models/` holds them, `cases.py` says what each is tried in."""
