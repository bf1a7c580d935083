"""The public Python API: the reference package's names, and those of its streaming fork."""
