"""Triton kernels of the fused frame step. Each does what some plain module does, which is its twin in the tests."""
