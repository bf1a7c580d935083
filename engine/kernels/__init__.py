"""Triton kernels, each with a torch twin in `model` that says what it must compute."""
