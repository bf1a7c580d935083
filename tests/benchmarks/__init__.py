"""Benchmarks, a soak run and the table of faults; each is a command."""
