"""The JSON schema of summary.json, for programs that read it; docs/summary.schema.json holds it."""

from __future__ import annotations

import json
from pathlib import Path

from hpc_accel.files import write_atomically
from hpc_accel.record.summary import Summary

PUBLISHED = Path("docs/summary.schema.json")


def text() -> str:
    """The schema as it is published."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Summary.model_json_schema()}
    return json.dumps(schema, indent=1) + "\n"


def publish() -> None:
    """Write it into the source tree that is the current directory."""
    write_atomically(PUBLISHED, text())
