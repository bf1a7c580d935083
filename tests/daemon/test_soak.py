"""A quarter of a day of `tests.benchmarks.soak`."""

import random

from tests.benchmarks.soak import BLOCKS, day
from tests.support.harness import daemon

GROWTH_MB = 5


async def test_simulated_hours_of_load_and_faults_leak_nothing():
    with daemon(fake="ToneBackend", debug=False) as process:
        growth = await day(process, random.Random(1), kills=True, blocks=BLOCKS // 4)
    assert growth.leaks == {}
    assert growth.daemon_mb < GROWTH_MB, growth
    assert growth.workers_mb < GROWTH_MB, growth
