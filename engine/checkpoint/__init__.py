"""Checkpoints: finding their files, checking them, planning memory, and loading weights."""
