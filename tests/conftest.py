"""What holds for all tests: how long an example takes decides nothing, for these machines are busy."""

import os

from hypothesis import settings

# Set before torch is loaded, and inherited by every process of a test: threads that wait for each other by spinning
# take the cores from the other tests, and sums over another number of threads sound a bit different.
os.environ["OMP_NUM_THREADS"] = "1"

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
