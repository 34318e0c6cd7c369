"""The published JSON schema is that of the code, and docs/record.md tells every key of a record."""

from __future__ import annotations

import json
import re

from hpc_accel.record import schema
from hpc_accel.record.summary import Summary
from tests.mpirun import ROOT


def test_the_published_schema_is_current():
    assert (ROOT / schema.PUBLISHED).read_text() == schema.text(), "python -m hpc_accel.record writes it"


def test_the_page_tells_every_key_of_the_record():
    rows = re.findall(r"^\| (.*?) \|", (ROOT / "docs/record.md").read_text(), flags=re.MULTILINE)
    assert set(Summary.model_fields) == {key for row in rows for key in re.findall(r"`(\w+)`", row)}


def test_the_schema_says_what_a_figure_is():
    definitions = json.loads(schema.text())["$defs"]
    assert definitions["Milliseconds"]["properties"]["unit"]["const"] == "ms"
    assert definitions["Summary" if "Summary" in definitions else "Energy"]["additionalProperties"] is False
