"""The example configuration is complete and agrees with the defaults."""

import re
from pathlib import Path

import yaml

from qwentts_daemon.config.loader import load
from qwentts_daemon.config.schema import Config

README = Path(__file__).parents[3] / "docs/announcements.md"
EXAMPLE = Path(__file__).parents[3] / "config.example.yaml"


def test_example_config_has_every_key_at_its_default():
    assert yaml.safe_load(EXAMPLE.read_text()) == Config().model_dump(mode="json")


def test_example_config_loads():
    assert load(EXAMPLE, {}) == Config()


def test_example_config_targets_in_comments_load(tmp_path):
    lines = re.findall(r"^  #  ( \w+: \{type: .*)", EXAMPLE.read_text(), re.M)
    path = tmp_path / "targets.yaml"
    path.write_text("announce:\n targets:\n" + "".join(f" {line}\n" for line in lines))
    targets = load(path, {}).announce.targets
    assert {target.type for target in targets.values()} == {"command", "wyoming", "snapcast", "url", "mqtt", "wav"}
    given = {key for target in targets.values() for key in target.model_fields_set}
    assert {"timeout", "fifo", "uri", "directory", "name", "command"} <= given
    for target in targets.values():
        needed = {
            name: getattr(target, name) for name, field in type(target).model_fields.items() if field.is_required()
        }
        assert target == type(target)(**needed), "shown at its defaults"


def test_documented_targets_load(tmp_path):
    block = re.findall(r"^```yaml\n(announce:.*?)^```", README.read_text(), re.M | re.S)[0]
    path = tmp_path / "targets.yaml"
    path.write_text(block)
    assert len(load(path, {}).announce.targets) == 6


def test_example_config_has_a_comment_for_every_key():
    keys = [line for line in EXAMPLE.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert [line for line in keys if " # " not in line] == []
