"""Remedies name a command that works for this copy, and tell an old driver from a missing one."""

import importlib.metadata
import json
import sys

import pytest

from engine import installation


class Distribution:
    """An installed program with its direct_url.json, or without one."""

    def __init__(self, url):
        self._url = url

    def read_text(self, name):
        assert name == "direct_url.json"
        return json.dumps(self._url) if self._url else None


@pytest.mark.parametrize(
    ("url", "command"),
    [
        (
            {"url": "file:///home/anna/a%20clone", "dir_info": {"editable": True}},
            "install -e '/home/anna/a clone[engine]'",
        ),
        ({"url": "file:///srv/qwentts", "dir_info": {}}, "install '/srv/qwentts[engine]'"),
        (
            {"url": "file:///tmp/x-0.1.0-py3-none-any.whl", "archive_info": {}},
            "install '/tmp/x-0.1.0-py3-none-any.whl[engine]'",
        ),
        ({"url": "https://home.example/x.whl", "archive_info": {}}, "install 'https://home.example/x.whl[engine]'"),
        (None, "install 'qwentts-daemon[engine]'"),
    ],
)
def test_install_command_names_the_source_of_this_copy(monkeypatch, url, command):
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution(url))
    assert installation.install_command("engine") == f"{sys.prefix}/bin/pip {command}"


def test_install_command_of_a_source_tree_installs_that_tree(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    assert installation.install_command("espeak", "engine").endswith(f"install -e '{installation.ROOT}[espeak,engine]'")
    assert installation.install_source() == str(installation.ROOT)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024", "535.183.01"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (builder)",
            "580.95.05",
        ),
        ("something else", None),
    ],
)
def test_driver_version_reads_both_kernel_modules(monkeypatch, tmp_path, text, version):
    (tmp_path / "version").write_text(f"{text}\nGCC version: gcc 12.2.0\n")
    monkeypatch.setattr(installation, "DRIVER_FILE", tmp_path / "version")
    assert installation.driver_version() == version


@pytest.mark.parametrize(
    ("wsl", "fault"), [(True, "the NVIDIA driver of Windows"), (False, "no NVIDIA driver is loaded")]
)
def test_driver_fault_of_an_unknown_driver_depends_on_wsl(monkeypatch, tmp_path, wsl, fault):
    monkeypatch.setattr(installation, "WSL_DEVICE", tmp_path if wsl else tmp_path / "none")
    assert installation.driver_fault(None, "13.0").startswith(fault)


def test_driver_version_is_none_without_a_driver(monkeypatch, tmp_path):
    monkeypatch.setattr(installation, "DRIVER_FILE", tmp_path / "none")
    assert installation.driver_version() is None
