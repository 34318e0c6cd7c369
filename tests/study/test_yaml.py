"""A study file is read safely, and every mistake in it is named with its line, its rule and its remedy."""

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.study.study_file import load_study


def error_of(tmp_path, text, name="s.yaml"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    assert caught.value.exit_code == 78
    assert caught.value.rule
    assert caught.value.remedy
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        ("- a\n- b\n", "a list"),
        ("workload: {name: digits}\nworkload: {name: lm}\n", "s.yaml:2"),
        ("workload:\n\tname: digits\n", "s.yaml:2"),
        (b"workload: {name: \xff}\n", "not UTF-8"),
        ("workload: !!python/object/apply:os.system ['true']\n", "s.yaml:1"),
        ("a: &x [1]\nb: *x\n", "alias"),
        ("<<: {b: 1}\na: 2\n", "merge key"),
        ("%YAML 1.1\n---\nworkload: {name: lm}\n", "%YAML"),
        ("workload: " + "[" * 30 + "]" * 30 + "\n", "deep"),
        ("workload: {name: lm}\nlayots: auto\n", "s.yaml:2: unknown key 'layots'"),
        ("workload: {name: lm}\nname: x\n", "named after its file"),
        ("workload: {name: lm}\nseed: no\n", "s.yaml:2: seed is 'no'"),
        ("workload: {name: lm}\nseed: 12:30\n", "seed is '12:30'"),
        ("workload: {name: lm}\nlayouts:\n  - {dp: 0}\n", "s.yaml:3"),
        ("workload: {name: lm}\nlayouts:\n  - {dp: 1.5}\n", "s.yaml:3"),
        ("workload: {name: lm}\nmeasure: {parity_tolerance: .nan}\n", "parity_tolerance"),
        ("workload: {name: '../x'}\n", "a name has"),
        ("layouts: auto\n", "'workload' is missing"),
    ],
)
def test_mistakes_are_named(tmp_path, text, expected):
    assert expected in error_of(tmp_path, text)


def test_unknown_key_lists_the_known_ones_of_its_level(tmp_path):
    message = error_of(tmp_path, "workload:\n  name: lm\n  layouts:\n    - {dq: 2}\n")
    assert "s.yaml:4" in message
    assert "micro_batch_size" in message
    assert "objective" not in message


def test_a_large_file_is_refused_before_it_is_parsed(tmp_path):
    assert "at most 1000000" in error_of(tmp_path, "# " + "x" * 1_000_001)


def test_a_missing_file_and_a_bad_name(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_study(tmp_path / "absent.yaml")
    assert "study file name" in error_of(tmp_path, "workload: {name: lm}", name="a b.yaml")


def test_yaml_12_values_mean_what_they_say(tmp_path):
    path = tmp_path / "s.yaml"
    text = "workload: {name: lm, args: {on: on, rate: 1e-3}, optimizer: {learning_rate: 1e-3}}\n"
    path.write_text(text)
    study = load_study(path)
    assert study.workloads[0].args == {"on": "on", "rate": 0.001}
    assert study.workloads[0].optimizer.learning_rate == 0.001
