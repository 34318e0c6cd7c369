"""Tests on the throwaway Slurm cluster."""
