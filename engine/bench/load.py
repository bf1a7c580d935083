"""Many listeners who come by chance: Poisson arrivals of texts of 12 to 200 characters, first audio and underruns.

python -m engine.bench.load DIR [--rates 1 10 20 40] [--seconds 20] [--json]   the engine alone, in this process
python -m engine.bench.load --uri tcp://HOST:PORT [--voice NAME] …             a daemon, as its clients see it

The engine alone makes a fixed number of frames for each text, 12.5 a second at 15 characters a second. Through a daemon
speech must end by itself: use a real model, or a random one (engine.testing.tiny_checkpoint) with `--eos-gain`.
An underrun is a chunk that arrives after the audio before it has been played.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator

from .arrivals import poisson
from .metrics import Figure
from .report import Setting, command_line, engine_parser, json_line, text_line

Lines = Iterator[tuple[Setting, dict[str, Figure]]]

MIXED = "mixed"
OURS = "the daemon's"
WARM_UP_TEXT = "Good evening, dinner is ready."


def main() -> None:
    options = _options()
    command = command_line("engine.bench.load", sys.argv[1:])
    line = json_line if options.json else text_line
    for setting, figures in through_daemon(options, command) if options.uri else engine_alone(options, command):
        print(line(setting, figures), flush=True)


def engine_alone(options: argparse.Namespace, command: str) -> Lines:
    """A line for each rate, served by an engine in this process."""
    from .load_engine import serve
    from .speech import BenchSpeaker

    speaker = BenchSpeaker(options.directory, options.max_jobs, options)
    speaker.warm_up(options.max_jobs)
    for rate in options.rates:
        arrivals = poisson(rate, options.seconds, options.seed)
        figures = serve(speaker, arrivals, options.max_jobs + options.waiting)
        setting = speaker.setting(command, f"<= {options.max_jobs}", MIXED)
        yield setting, {"rate": rate, "requests": len(arrivals), **figures}


def through_daemon(options: argparse.Namespace, command: str) -> Lines:
    """A line for each rate, served by a daemon that runs somewhere: what it runs on, only it knows."""
    from .load_client import listen_all, warm_up

    asyncio.run(warm_up(options.uri, options.voice, WARM_UP_TEXT))
    setting = Setting(command, f"GPU of {options.uri}", OURS, f"voice {options.voice or 'default'}", OURS, MIXED)
    for rate in options.rates:
        arrivals = poisson(rate, options.seconds, options.seed)
        figures = asyncio.run(listen_all(options.uri, options.voice, arrivals))
        yield setting, {"rate": rate, "requests": len(arrivals), **figures}


def _options() -> argparse.Namespace:
    parser = engine_parser(__doc__, directory=False)
    parser.add_argument("--uri", help="of a running daemon, instead of DIR")
    parser.add_argument("--voice", help="of the daemon")
    parser.add_argument("--rates", type=float, nargs="+", default=[1, 10, 20, 40], help="requests a second")
    parser.add_argument("--seconds", type=float, default=20, help="for which requests come, at each rate")
    parser.add_argument("--max-jobs", type=int, default=32, help="of the engine alone: spoken at once")
    parser.add_argument("--waiting", type=int, default=32, help="of the engine alone: more that may wait")
    parser.add_argument("--seed", type=int, default=0, help="of arrivals and texts")
    options = parser.parse_args()
    if (options.directory is None) == (options.uri is None):
        parser.error("set either DIR or --uri")
    return options


if __name__ == "__main__":
    main()
