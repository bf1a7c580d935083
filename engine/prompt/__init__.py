"""Prompts and what they are made of: tokens, languages, sampling parameters. Nothing here imports torch."""
