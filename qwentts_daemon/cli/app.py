"""The command line: `qwentts-daemon [run]`, `say`, `announce`, `voices`, `download`, `clone`, `check-config`, `doctor`,
`install-service`, `uninstall-service`.

Exit status: 0 success · 1 the server reported an error, or the doctor a warning · 2 invalid usage · 64 stdio:// without
a pipe, or an invalid name of a voice · 65 an unusable recording · 69 the server or the model is not available, the port
is in use, voices cannot be loaded, or the doctor found an error · 73 a file cannot be written · 74 standard output
cannot be written · 77 permission denied · 78 invalid configuration · 130 interrupted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from wyoming.info import TtsVoice

from .. import __version__, logs
from ..config.live import LiveConfig
from ..config.loader import ENV_CONFIG, load
from ..config.paths import default_path, voices_dir
from ..config.schema import Config, check_language
from ..daemon import program_uri, serve
from ..doctor import findings
from ..doctor.checks import examine
from ..errors import ConfigError, QwenTtsError, SpeechError, StartError, first_error
from ..service import early_signals, install
from ..voices.languages import match_language
from ..workers import engine_settings
from ..workers.engine_settings import Clone
from ..wyoming import client
from . import streams, try_voice

DEFAULT_COMMAND = "run"
ROOT_OPTIONS = ("-h", "--help", "--version", "--install-completion", "--show-completion")
MAX_TRANSCRIPT_BYTES = 64 * 1024

app = typer.Typer(
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=__doc__,
    context_settings={"help_option_names": ["-h", "--help"]},
)
log = logging.getLogger(__name__)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

ConfigPath = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar=ENV_CONFIG, help="Read this configuration file (YAML).", show_envvar=True),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Set one key; may be repeated.")
]
Uri = Annotated[str | None, typer.Option("--uri", help="Use this address: tcp://HOST:PORT, unix:///PATH or stdio://.")]
Wait = Annotated[float, typer.Option("--wait", help="Wait up to this many seconds until the daemon listens.")]


def run_cli() -> None:
    """Run the command line. Exits with a status even if the standard streams have failed."""
    streams.set_up()
    early_signals.imported()
    try:
        _run_command(sys.argv[1:])
    finally:
        early_signals.install()  # no traceback while the interpreter exits
        _flush_results()


def _run_command(arguments: list[str]) -> None:
    """Run the command, `run` by default. A user's mistake is reported as one line and an exit status."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ROOT_OPTIONS):
        arguments.insert(0, DEFAULT_COMMAND)
    try:
        app(arguments, prog_name="qwentts-daemon")
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BaseExceptionGroup as group:
        known, unknown = group.split(QwenTtsError)
        if unknown or not known:
            raise
        _fail(first_error(known))
    except QwenTtsError as error:
        _fail(error)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        out.print(__version__)


@app.command()
def run(
    config: ConfigPath = None,
    settings: Settings = None,
    uri: Uri = None,
    voice: Annotated[str | None, typer.Option(help="Set the default voice (voices.default).")] = None,
    backend: Annotated[
        str | None, typer.Option(help="Set the backend: auto, qwen3 or espeak (engine.backend).")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Log at level DEBUG (log.level).")] = False,
) -> None:
    """Run the daemon (the default)."""
    shortcuts = {"wyoming.uri": uri, "voices.default": voice, "engine.backend": backend}
    words = [f"{key}={value}" for key, value in shortcuts.items() if value is not None]
    words = [*(settings or []), *words, *(["log.level=DEBUG"] if debug else [])]
    file = config or default_path(os.environ)  # a file that was found once is required by every reload
    live = LiveConfig(lambda: _load(file, words))
    logs.set_up(live.current.log, os.environ)
    os.umask(0o077)  # only the daemon's user may read what it writes
    asyncio.run(serve(live))


app.command("install-service")(install.install_service)
app.command("uninstall-service")(install.uninstall_service)


@app.command("check-config")
def check_config(config: ConfigPath = None, settings: Settings = None) -> None:
    """Check the configuration and print the values in force."""
    loaded = _load(config, settings)
    out.print_json(loaded.model_dump_json())
    err.print("OK: the configuration is valid")


@app.command()
def doctor(
    config: ConfigPath = None,
    settings: Settings = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Skip the hashes of the model files and the spoken sentence.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check everything that speech depends on, and print remedies. Nothing is changed."""
    fault = None
    try:
        found = examine(_load(config, settings), os.environ, quick)
    except ConfigError as error:
        fault = error
        found = iter(
            [findings.error("configuration", str(error), "correct the key; config.example.yaml lists every key")]
        )
    shown = list(found) if as_json else findings.show(found, out)
    if as_json:
        print(findings.as_json(shown))
    raise SystemExit(fault.exit_status if fault else findings.exit_status(shown))


@app.command()
def say(
    text: Annotated[str, typer.Argument(help="Text to speak; `-` reads standard input and speaks while it arrives.")],
    config: ConfigPath = None,
    settings: Settings = None,
    uri: Uri = None,
    voice: Annotated[str | None, typer.Option(help="Use this voice of the daemon.")] = None,
    speaker: Annotated[str | None, typer.Option(help="Use this style of the voice.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write this WAV file; `-` is standard output.")
    ] = None,
    play: Annotated[bool, typer.Option("--play", help="Play the audio on this machine while it arrives.")] = False,
    wait: Wait = 0.0,
) -> None:
    """Speak a text with a running daemon; print time to first audio, duration and real-time factor."""
    if output is None and not play:
        raise typer.BadParameter("choose --output FILE or --play")
    if speaker and not voice:
        raise typer.BadParameter("--speaker needs --voice: the protocol sends a style only with a voice")
    request = client.ClientOptions(_daemon_uri(config, uri, settings), voice, speaker, wait)
    if voice and (warning := client.unlisted(asyncio.run(client.programs(request)), voice, speaker)):
        err.print(f"warning: {warning}", soft_wrap=True, markup=False)
    pieces = client.stdin_pieces() if text == "-" else client.whole(text)
    result = None
    try:
        with client.sink(output, play) as write:
            result = asyncio.run(client.say(request, pieces, write))
    except* BrokenPipeError:
        log.debug("the reader closed standard output")  # such as `say -o - | head`
    if result is None:
        raise SystemExit(1)
    (err if str(output) == "-" else out).print(
        f"first audio {result.first_audio_s * 1000:.1f} ms, {result.audio_s:.2f} s of audio in {result.chunks} chunks, "
        f"real-time factor {result.total_s / result.audio_s:.4f}{f', {output}' if output else ''}",
        soft_wrap=True,
    )


@app.command()
def announce(
    text: Annotated[str, typer.Argument(help="Text to announce.")],
    targets: Annotated[
        list[str] | None, typer.Option("--target", "-t", help="Play it on this target; may be repeated.")
    ] = None,
    voice: Annotated[str | None, typer.Option(help="Use this voice of the daemon.")] = None,
    language: Annotated[str | None, typer.Option(help="Speak this language, such as de-DE.")] = None,
    style: Annotated[str | None, typer.Option(help="Use this style of the voice.")] = None,
    instruct: Annotated[str | None, typer.Option(help="Describe in words how to speak.")] = None,
    volume: Annotated[float | None, typer.Option(help="Set the volume, 0 to 100.")] = None,
    priority: Annotated[
        str, typer.Option(help="Set the priority: high (also spoken in quiet hours), normal or low.")
    ] = "normal",
    chime: Annotated[bool | None, typer.Option("--chime/--no-chime", help="Play a chime first.")] = None,
    expires: Annotated[
        float | None, typer.Option(help="Cancel it if it has not started after this many seconds.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Print its events until it has been spoken.")
    ] = True,
    config: ConfigPath = None,
    settings: Settings = None,
) -> None:
    """Announce a text by MQTT, through the configured broker, and print its events."""
    from .announce import announce

    wishes = {
        "text": text, "targets": targets, "voice": voice, "language": language, "style": style, "instruct": instruct,
        "volume": volume, "priority": priority, "chime": chime, "expires_s": expires,
    }  # fmt: skip
    say = {name: value for name, value in wishes.items() if value is not None}
    if not asyncio.run(announce(_load(config, settings), say, follow, _print_event)):
        raise SystemExit(1)


def _print_event(event: Mapping[str, Any]) -> None:
    facts = {name: value for name, value in event.items() if name not in ("event_type", "id")}
    words = ", ".join(f"{name} {value}" for name, value in facts.items())
    console = err if event["event_type"] in ("failed", "cancelled") else out
    console.print(event["event_type"] + (f": {words}" if words else ""), soft_wrap=True, markup=False)


@app.command()
def voices(
    config: ConfigPath = None,
    settings: Settings = None,
    uri: Uri = None,
    language: Annotated[
        str | None, typer.Option(help="List only voices of this language, such as de or de-DE.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
    wait: Wait = 0.0,
) -> None:
    """List the voices of a running daemon."""
    request = client.ClientOptions(_daemon_uri(config, uri, settings), None, None, wait)
    every = asyncio.run(client.voices(request))
    chosen = [each for each in every if language is None or match_language(language, each.languages)]
    if as_json:
        fields = ("name", "description", "languages")
        rows = [{key: getattr(each, key) for key in fields} | {"styles": _styles(each)} for each in chosen]
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    table = Table("voice", "description", "languages", "styles", box=None)
    for listed in chosen:
        table.add_row(listed.name, listed.description, ", ".join(listed.languages), ", ".join(_styles(listed)))
    out.print(table)


def _styles(voice: TtsVoice) -> list[str]:
    return [speaker.name for speaker in voice.speakers or ()]


@app.command()
def download(
    model: Annotated[str | None, typer.Argument(help="Hub id of the model; default: engine.model.")] = None,
    config: ConfigPath = None,
    settings: Settings = None,
) -> None:
    """Download a model in advance. An interrupted download is resumed."""
    words = ["engine.offline=false", *([f"engine.model={model}"] if model else [])]
    loaded = _load(config, [*(settings or []), *words])
    directory = engine_settings.download(loaded)
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    out.print(f"{loaded.engine.model}: {size / 1e9:.2f} GB in {directory}", soft_wrap=True)


@app.command()
def clone(
    name: Annotated[str, typer.Argument(help="Name of the new voice.")],
    audio: Annotated[Path, typer.Option("--audio", help="Recording of one person, 3 to 30 s: WAV, FLAC, OGG or MP3.")],
    transcript: Annotated[
        str | None, typer.Option(help="Words of the recording, or a text file with them; they make the clone closer.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Language of the voice, such as de-DE.")] = None,
    description: Annotated[str | None, typer.Option(help="Description of the voice, for lists of voices.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an existing voice of this name.")] = False,
    config: ConfigPath = None,
    settings: Settings = None,
    uri: Uri = None,
) -> None:
    """Clone a voice from a recording, for a Base model; a running daemon adds it without a restart."""
    folder = voices_dir(_load(config, settings), os.environ)
    engine_settings.check_voice_name(name)
    if (folder / name).exists() and not replace:
        raise StartError(f"{folder / name} already exists; use another name, or --replace", os.EX_CANTCREAT)
    for advice in engine_settings.judge_recording(audio):
        err.print(f"{audio}: {advice}", soft_wrap=True, markup=False)
    new = not (folder / name).exists()
    if language:
        try:
            check_language(language)
        except ValueError as error:
            raise typer.BadParameter(f"--language {language}: {error}") from None
    directory = engine_settings.add_clone(folder, Clone(name, audio, _transcript(transcript), language, description))
    out.print(f"the voice {name} is in {directory}", soft_wrap=True)
    _try_out(
        client.ClientOptions(_daemon_uri(config, uri), None, None, 0.0), name, language, directory if new else None
    )


def _try_out(request: client.ClientOptions, name: str, language: str | None, directory: Path | None) -> None:
    """Speak a sentence with a new voice, or print how to.

    directory: that of a new voice; None for a replaced one, which the daemon may not have read again yet.
    """
    later = f"try it: qwentts-daemon say --voice {name} --play 'Good evening.'"
    if directory is None:
        out.print(f"a running daemon reads the new recording within a few seconds; {later}", soft_wrap=True)
        return
    out.print(f"waiting until the running daemon lists {name} (it may have to load its model) ...", soft_wrap=True)
    try:
        listed = asyncio.run(try_voice.appears(request, name))
    except StartError as error:
        model = "Qwen/Qwen3-TTS-12Hz-1.7B-Base"
        out.print(f"{error}; start a daemon with a Base model (engine.model: {model}), then {later}", soft_wrap=True)
        return
    if not listed:
        out.print(
            f"the running daemon does not list {name}: read its log; check voices.dir and engine.model",
            soft_wrap=True,
        )
        raise SystemExit(1)
    output = directory / "sample.wav"
    result = asyncio.run(try_voice.speak(request, name, language, output))
    out.print(f"wrote {result.audio_s:.1f} s of speech by {name}: {output}", soft_wrap=True)


def _load(config: Path | None, settings: list[str] | None = None) -> Config:
    return load(config or default_path(os.environ), os.environ, settings or [])


def _daemon_uri(config: Path | None, uri: str | None, settings: list[str] | None = None) -> str:
    return program_uri(_load(config, [*(settings or []), *([f"wyoming.uri={uri}"] if uri else [])]))


def _transcript(words: str | None) -> str | None:
    """Return the transcript, read from a file if `words` is the path of one. Raises StartError."""
    if words is None or not Path(words).is_file():
        return words
    try:
        with Path(words).open("rb") as file:
            text = file.read(MAX_TRANSCRIPT_BYTES).decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"--transcript {words}: cannot be read as UTF-8 text: {error}", os.EX_NOINPUT) from None
    err.print(f"transcript of {words}: {text}", soft_wrap=True, markup=False)
    return text


def _fail(error: BaseException) -> NoReturn:
    status = error.exit_status if isinstance(error, ConfigError | StartError) else 1
    code = f" ({error.code})" if isinstance(error, SpeechError) else ""
    line = f"qwentts-daemon: {error}{code}"
    if logs.goes_to_journal(os.environ, sys.stderr):
        line = logs.with_priority(logging.ERROR, line)
    err.print(line, soft_wrap=True, markup=False)
    raise SystemExit(status)


def _flush_results() -> None:
    try:
        streams.flush_results()
    except BrokenPipeError:
        raise SystemExit(1) from None  # such as `voices | head`; click and rich exit with 1 too
    except OSError as error:
        err.print(f"qwentts-daemon: cannot write to standard output: {error.strerror}", soft_wrap=True, markup=False)
        raise SystemExit(os.EX_IOERR) from None
