"""Models as people write them agree with the serial run in every layout, or are refused before anything starts."""

import pytest

from tests.zoo.cases import COLUMNS, MODELS, SHORT
from tests.zoo.table import PAGE, page
from tests.zoo.train import trained


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("zoo"))


@pytest.mark.mpi
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("model", MODELS)
def test_it_trains_or_is_refused(request, outcomes, model, column):
    if (model, column) in SHORT:
        request.applymarker(pytest.mark.xfail(reason=SHORT[model, column], strict=True))
    outcome = outcomes[model, column]
    assert outcome == "works" or outcome.startswith("refused: "), outcome


@pytest.mark.mpi
def test_the_page_says_what_came_out(outcomes):
    assert PAGE.read_text() == page(outcomes), "python -m tests.zoo.table"
