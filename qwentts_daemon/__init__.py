"""The voice of the home: a text-to-speech daemon that speaks the Wyoming protocol."""

__version__ = "0.1.0"
