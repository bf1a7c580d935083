"""Voices in a folder, and what a recording says about a speaker."""
