import urllib.error
import urllib.request

import pytest

from tests.support.harness import PATIENCE_S, daemon, started


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize("wish", ["http.enabled=true", "announce.targets={media: {type: url}}"])
def test_daemon_starts_http_server_when_a_target_needs_it(tmp_path, wish):
    settings = ("http.host=127.0.0.1", "http.port=0", f"http.cache_dir={tmp_path / 'cache'}", wish)
    with daemon(*settings) as process:
        base = process.wait_for(r"listening on http://127\.0\.0\.1:\d+, reached as (http://\S+)")[1]
        assert get(f"{base}/healthz") == (200, b"ok\n")
        assert get(f"{base}/readyz") == (200, b"ready\n")
        assert get(f"{base}/audio/x.wav")[0] == 404
        warned = [line for line in process.lines if "announcements need a broker; set mqtt.host" in line]
        assert len(warned) == ("targets" in wish)


def test_daemon_starts_no_http_server_when_no_target_needs_it(tmp_path):
    with daemon(f"http.cache_dir={tmp_path / 'cache'}") as process:
        assert process.port
    assert not [line for line in process.lines if "http://" in line]
    assert not (tmp_path / "cache").exists()


def test_daemon_does_not_start_when_http_port_is_in_use(tmp_path):
    cache = f"http.cache_dir={tmp_path}"
    with daemon("http.enabled=true", "http.host=127.0.0.1", "http.port=0", cache) as process:
        port = process.wait_for(r"listening on http://127\.0\.0\.1:\d+, reached as http://127\.0\.0\.1:(\d+)")[1]
        with started("http.enabled=true", "http.host=127.0.0.1", f"http.port={port}", cache) as other:
            assert other.wait() == 69
    assert any("choose another port (http.port)" in line for line in other.lines)
