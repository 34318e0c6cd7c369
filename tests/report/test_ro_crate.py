"""ro-crate-metadata.json keeps the rules of RO-Crate 1.1 that a program can check without a network."""

from __future__ import annotations

import json
import re
from datetime import date
from urllib.parse import unquote

import pytest

from hpc_accel.report.load.study_records import load
from hpc_accel.report.write import write


def entities(directory):
    content = json.loads((directory / "ro-crate-metadata.json").read_text())
    assert content["@context"] == "https://w3id.org/ro/crate/1.1/context"
    graph = content["@graph"]
    found = {each["@id"]: each for each in graph}
    assert len(found) == len(graph), "each @id stands once"
    return found


def references(value):
    """Every {"@id": ...} below a value."""
    if isinstance(value, dict):
        if set(value) == {"@id"}:
            yield value["@id"]
        else:
            for each in value.values():
                yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


@pytest.mark.parametrize("which", ["study", "energy_study"])
def test_the_crate_keeps_the_rules(which, request):
    directory = request.getfixturevalue(which)
    write(directory)
    found = entities(directory)
    descriptor, root = found["ro-crate-metadata.json"], found["./"]
    assert descriptor["@type"] == "CreativeWork"
    assert descriptor["about"] == {"@id": "./"}
    assert descriptor["conformsTo"] == {"@id": "https://w3id.org/ro/crate/1.1"}
    assert root["@type"] == "Dataset"
    assert root["name"] and root["description"]
    assert date.fromisoformat(root["datePublished"])
    assert found[root["license"]["@id"]]["description"]
    for each in found.values():
        assert isinstance(each["@type"], str)
        for target in references({key: value for key, value in each.items() if key != "@id"}):
            assert target in found or re.match(r"https?://", target), f"{each['@id']} names {target}"
    files = {name for name, each in found.items() if each["@type"] == "File"}
    directories = {name for name, each in found.items() if each["@type"] == "Dataset"} - {"./"}
    assert files | directories == set(references(root["hasPart"])), "each file is a part of the root"
    assert all(name.endswith("/") and (directory / unquote(name) / "summary.json").is_file() for name in directories)
    for name in files:
        path = directory / unquote(name)
        assert path.is_file(), name
        assert name == "answer.txt" or found[name]["contentSize"] == str(path.stat().st_size)


def test_each_run_is_an_action_with_its_software_and_end(study):
    write(study)
    found = entities(study)
    actions = {name: each for name, each in found.items() if each["@type"] == "CreateAction"}
    records = load(study)
    recorded = [run for run in records.measurements if run.has_record]
    assert len(actions) == len(recorded)
    for run in recorded:
        action = actions[f"#run-{run.run_id}"]
        failed = run.summary.status == "failed"
        assert action["actionStatus"]["@id"].endswith("FailedActionStatus" if failed else "CompletedActionStatus")
        assert failed == ("instrument" in action and not action["instrument"])
        if run.summary.started_utc:
            assert action["startTime"] == run.summary.started_utc
        names = {found[each["@id"]]["name"] for each in action["instrument"]}
        assert failed or {"hpc-accel", "PyTorch", "Python"} <= names
        assert [each["@id"] for each in action["result"]] == [f"runs/{run.run_id}/"]


def test_a_reader_of_crates_opens_it(energy_study):
    crates = pytest.importorskip("rocrate.rocrate")
    write(energy_study)
    crate = crates.ROCrate(energy_study)
    assert crate.name == "Results of study demo"
    assert {"summary.csv", "report.html", "methods.md"} <= {each.id for each in crate.data_entities}
