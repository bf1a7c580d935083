"""What holds for all tests: how long an example takes decides nothing, for these machines are busy."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
