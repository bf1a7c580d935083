"""Entry point. Imports nothing at module level: every spawned worker imports this file again."""


def main() -> None:
    """Run the command line."""
    from .service import early_signals

    early_signals.install()
    from .cli.app import run_cli

    run_cli()


if __name__ == "__main__":
    main()
