"""The example configuration is complete and tells the truth."""

from pathlib import Path

import yaml

from qwentts_daemon.config import load
from qwentts_daemon.sections import Config

EXAMPLE = Path(__file__).parents[1] / "config.example.yaml"


def test_example_holds_every_key_at_its_default():
    assert yaml.safe_load(EXAMPLE.read_text()) == Config().model_dump(mode="json")


def test_example_loads():
    assert load(EXAMPLE, {}) == Config()


def test_every_key_of_the_example_has_a_comment():
    keys = [line for line in EXAMPLE.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert [line for line in keys if " # " not in line] == []
