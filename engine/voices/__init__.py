"""Voices of the voices folder: their files, their recordings and the prompts computed from these."""
