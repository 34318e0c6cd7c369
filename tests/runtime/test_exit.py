"""Where an error came from: the user's own line, whatever lies between it and the run."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.study.run import WorkloadSpec
from hpc_accel.study.sources import users_frame
from hpc_accel.workloads import entry


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("fails_of_test.py").write_text("import json\ndef build(text='{'):\n    return json.loads(text)\n")
    sys.modules.pop("fails_of_test", None)
    return importlib.import_module("fails_of_test")


def test_the_innermost_line_of_the_user_is_named(module, tmp_path):
    with pytest.raises(json.JSONDecodeError) as caught:
        module.build()
    assert users_frame(caught.value) == f"{tmp_path}/fails_of_test.py:3 in build"


def test_also_through_an_error_that_explains_it(module, tmp_path):
    with pytest.raises(ConfigError) as caught:
        entry.build(WorkloadSpec(name="f", entry="fails_of_test:build", global_batch_size=1), 0)
    assert users_frame(caught.value) == f"{tmp_path}/fails_of_test.py:3 in build"


def test_no_line_is_named_where_none_is_the_users():
    with pytest.raises(json.JSONDecodeError) as caught:
        eval("loads('{')", {"loads": json.loads})
    caught.value.__traceback__ = caught.value.__traceback__.tb_next
    assert users_frame(caught.value) is None
