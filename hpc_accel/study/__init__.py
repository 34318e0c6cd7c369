"""The study file: its schema, its validation rules, and its expansion into runs."""
