"""Small programs that use the Python API; each is run as `python -m engine.examples.NAME MODEL`."""
