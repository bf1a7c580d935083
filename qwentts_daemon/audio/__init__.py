"""PCM processing: WAV, resampling, chimes, volume."""
