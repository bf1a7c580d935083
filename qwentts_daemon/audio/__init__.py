"""PCM and what is done to it: WAV, resampling, chimes, volume."""
