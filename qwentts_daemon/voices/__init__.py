"""Voices as clients name them."""
