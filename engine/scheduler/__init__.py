"""The engine loop: which sequences run, and when their frames become chunks."""
