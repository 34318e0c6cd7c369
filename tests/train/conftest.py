"""Fixtures of this directory."""

from tests.train.alone import checkpoints

__all__ = ["checkpoints"]
