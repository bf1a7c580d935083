"""Cleans and splits text for speech while it is still arriving."""
