"""Triton kernels of the fused decode step. Each is equivalent to an eager module, which the tests compare it with."""
