"""Engine worker processes as the daemon sees them: queue, jobs, health."""
