"""Random checkpoints of the real architecture, for tests and benchmarks."""
