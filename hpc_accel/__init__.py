"""Measure which parallel layout trains a PyTorch model fastest, cheapest and with the least energy."""

__version__ = "0.1.0"
