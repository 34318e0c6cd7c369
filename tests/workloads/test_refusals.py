"""A workload without its extra names the line that installs it; arguments that cannot be are named with the rule."""

import importlib.util

import numpy as np
import pytest

from hpc_accel.errors import ConfigError, DataError
from hpc_accel.study.builtin_workloads import BUILTIN, listing
from hpc_accel.study.run import WorkloadSpec
from hpc_accel.workloads import entry


def built(name, **args):
    spec = WorkloadSpec(name=name, entry=BUILTIN[name].entry, args=args, global_batch_size=8)
    return entry.build(spec, seed=0)


@pytest.mark.parametrize(
    ("name", "extra"),
    [("digits", "quickstart"), ("driving", "driving"), ("imaging", "imaging"), ("risk", "risk"), ("hf", "llm")],
)
def test_a_missing_extra_is_named_with_the_line_that_installs_it(name, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(ConfigError) as caught:
        built(name)
    assert f"workload {name} without" in caught.value.value
    assert f"pip install 'hpc-accel[{extra}]'" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("lm", {"size": "2B"}, "tiny, small, 124M"),
        ("lm", {"layers": 0}, "at least 1"),
        ("lm", {"text": "absent.txt"}, "absent.txt"),
        ("lm", {"stride": 0}, "stride 0"),
        ("lm", {"sequence": 10**6}, "shorter sequence"),
        ("vision", {"model": "vgg"}, "vit-tiny"),
        ("vision", {"norm": "layer"}, "group, batch"),
        ("vision", {"image": 30}, "divisors"),
        ("vision", {"folder": "absent"}, "absent"),
        ("synthetic", {"depth": 0}, "depth"),
    ],
)
def test_arguments_that_cannot_be_are_refused(name, args, expected):
    with pytest.raises(ConfigError) as caught:
        built(name, **args)
    assert expected in str(caught.value)


def test_images_of_a_folder_are_split_and_scaled(tmp_path):
    for label, value in (("dark", 0), ("light", 255)):
        (tmp_path / label).mkdir()
        for number in range(6):
            np.save(tmp_path / label / f"{number}.npy", np.full((10, 12, 3), value, dtype=np.uint8))
    workload = built("vision", folder=str(tmp_path), image=8, model="resnet18")
    assert (len(workload.dataset), len(workload.metric.dataset)) == (10, 2)
    image, label = workload.dataset[0]
    assert image.shape == (3, 8, 8)
    assert (image.mean().item(), label.item()) == (pytest.approx(-1), 0)
    image, label = workload.metric.dataset[1]
    assert (image.mean().item(), label.item()) == (pytest.approx(1), 1)
    assert workload.model(image[None]).shape == (1, 2)
    np.save(tmp_path / "dark" / "0.npy", np.zeros((10, 12)))
    with pytest.raises(DataError, match=r"dark.0\.npy.*not bytes"):
        workload.dataset[0]


def test_pictures_of_a_folder_are_read(tmp_path):
    image_module = pytest.importorskip("PIL.Image", reason="pillow is not installed (make extras)")
    for label, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / label).mkdir()
        for number in range(5):
            image_module.new("RGB", (9, 7), colour).save(tmp_path / label / f"{number}.png")
    workload = built("vision", folder=str(tmp_path), image=4, patch=2)
    image, label = workload.dataset[len(workload.dataset) - 1]
    assert label.item() == 1  # blue comes first
    assert image[:, 0, 0].tolist() == [1.0, -1.0, -1.0]


def test_the_listing_says_what_each_workload_is():
    lines = listing().splitlines()
    assert [line.split()[0] for line in lines] == list(BUILTIN)
    assert all(builtin.about in line for builtin, line in zip(BUILTIN.values(), lines, strict=True))
