"""Device state and the steps that run on it: runner, decode step, codec step, CUDA graphs."""
