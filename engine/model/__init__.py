"""Qwen3-TTS in pure PyTorch: talker, code predictor, codec and speaker encoder, matching the reference exactly."""
