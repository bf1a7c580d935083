"""Qwen3-TTS in plain torch: talker, code predictor, codec and speaker encoder, exact to the reference."""
