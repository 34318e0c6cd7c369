"""Layouts applied to a model: mesh, data, tensor and pipeline parallelism, all of them torch's own."""
