"""Benchmarks of the engine: each prints lines that name command, GPU, torch, model, batch and frames."""
