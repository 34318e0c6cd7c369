"""Models as people write them agree with the serial run in every layout, or are refused before anything starts.

Some of them are trained with all other tests, the rest by `make zoo`, which takes minutes.
"""

import pytest

from tests.zoo.cases import COLUMNS, FAST, MODELS, TOLD
from tests.zoo.table import OUTCOMES, PAGE, REFUSED, page, recorded
from tests.zoo.train import trained

SLOW = [name for name in MODELS if name not in FAST]
MARKS = [pytest.mark.zoo, pytest.mark.timeout(1200)]
"""The first of them waits for the training of all; each launch has a limit of its own."""
NAMES = [*FAST, *(pytest.param(name, marks=MARKS) for name in SLOW)]


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("fast"), FAST)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("slow"), SLOW, jobs=2)


@pytest.mark.mpi
@pytest.mark.parametrize("name", NAMES)
def test_it_comes_out_as_the_page_says(request, name):
    outcomes = request.getfixturevalue("fast" if name in FAST else "slow")
    assert outcomes[name] == recorded()[name], f"if it is right: python -m tests.zoo.table '{name}'"


@pytest.mark.parametrize("name", MODELS)
def test_what_does_not_work_is_refused_or_told(name):
    outcomes = recorded()[name]
    assert list(outcomes) == list(COLUMNS)
    assert outcomes["serial"] == "works"
    others = [each for each in outcomes.values() if each != "works" and not each.startswith(REFUSED)]
    assert all(name in TOLD and TOLD[name] in each for each in others), others


def test_the_page_is_that_of_the_outcomes():
    assert list(recorded()) == list(MODELS), OUTCOMES
    assert PAGE.read_text() == page(recorded()), "python -m tests.zoo.table"
