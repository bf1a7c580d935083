"""Live comparison with the reference package; skipped where qwen_tts is not installed."""
