"""Studies whose results are there, made as for the report's tests."""

from tests.report.conftest import energy_study, made, measured, study

__all__ = ["energy_study", "made", "measured", "study"]
