"""Device state and device steps: the runner, the decode step, the codec step, CUDA graphs."""
