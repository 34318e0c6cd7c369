"""Tests of the Snakefile."""
