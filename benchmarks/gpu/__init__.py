"""What only a GPU can show, measured on one card in two passes of five minutes: `make gpu-check`.

check.py runs the steps and keeps what they say; the other files are the steps, each a program of its own that prints a
line per figure (say.py). HPC_ACCEL_PRETEND_GPU=1 runs all of them on the CPU, small and without meaning, so that no
minute of a card is lost to a mistake.
"""
