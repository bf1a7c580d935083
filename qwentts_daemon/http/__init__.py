"""The HTTP server for recordings."""
