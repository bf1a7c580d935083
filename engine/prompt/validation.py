"""Checks of option values, shared by every set of options that users write."""

from __future__ import annotations


def check_number(
    name: str,
    value: object,
    low: float,
    high: float | None = None,
    *,
    whole: bool = False,
    error: type[ValueError] = ValueError,
) -> None:
    """Check that `value` is a number of `low` to `high`, both included; a bool is not a number.

    Raises `error` naming the option.
    """
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise error(f"{name} must be a {'whole ' if whole else ''}number, not {value!r}")
    if not low <= value or (high is not None and not value <= high):  # both are true of NaN
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise error(f"{name} must be {bounds}, not {value}")


def check_bool(name: str, value: object) -> None:
    """Raises ValueError for anything but True and False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, not {value!r}")
