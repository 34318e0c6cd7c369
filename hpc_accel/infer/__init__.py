"""Inference with a trained model: latency under open-loop load, throughput under a limit, and what it costs."""
