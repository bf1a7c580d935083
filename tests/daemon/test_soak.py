"""A quarter of a day of `tests.soak`, whose command goes on for as long as one likes."""

import random

from tests.harness import daemon
from tests.soak import BLOCKS, day

GROWTH_MB = 5


async def test_hours_of_polls_sentences_and_trouble_leave_nothing_behind():
    with daemon(fake="ToneBackend", debug=False) as process:
        growth = await day(process, random.Random(1), kills=True, blocks=BLOCKS // 4)
    assert growth.leaks == {}
    assert growth.daemon_mb < GROWTH_MB, growth
    assert growth.workers_mb < GROWTH_MB, growth
