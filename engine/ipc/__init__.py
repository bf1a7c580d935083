"""What the daemon and an engine worker process say to each other over a pair of pipes."""
