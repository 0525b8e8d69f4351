"""Checks of single values, with the one error for all of them."""

from __future__ import annotations

import math

import numpy as np

from sisrm.errors import ParameterError


def require_integer(name: str, value: object, low: int, high: int) -> None:
    """Raise ParameterError unless value is a whole number in [low, high]; booleans are not numbers here."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise ParameterError(name, value, f"a whole number from {low} to {high}")


def require_number(name: str, value: object, low: float, high: float) -> None:
    """Raise ParameterError unless value is a finite number in [low, high]."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, (bool, np.bool_))
    if not number or not math.isfinite(value) or not low <= value <= high:
        raise ParameterError(name, value, f"a number from {low:g} to {high:g}")
