"""Share links: a query string that carries the settings, and never the photo."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

from sisrm.errors import ParameterError
from sisrm.ui.settings import CONTROLS, Control, Limit, Names, Settings, Switch, check_settings

LONGEST = 8192
"""Characters of a query string, at most: a link with every setting and 40 labels has 4,000."""

_SWITCH = {"true": True, "false": False}


def to_query(settings: Settings, defaults: Settings) -> str:
    """The settings that are not the defaults, and always the seed, as a query string without "?".

    Args:
        settings: of a job. defaults: of `default_settings`.
    """
    usual = defaults.as_json()
    pairs = []
    for name, value in settings.as_json().items():
        if isinstance(value, list):
            pairs += [(name, entry) for entry in value]
        elif name == "seed" or value != usual[name]:
            pairs.append((name, str(value).lower() if isinstance(value, bool) else value))
    return urlencode(pairs)


def from_query(query: str | Mapping[str, str], defaults: Settings, free_text: bool = False) -> Settings | None:
    """The settings of a share link; every value is checked as if it came from the page.

    Args:
        query: what follows "?" in an address (or Starlette's QueryParams). Names that are no settings are left to others.
        defaults: of `default_settings`, for what the link does not name.
        free_text: whether labels may be other words than the 150 class names.

    Returns:
        None where it names no setting. Without a seed it is drawn.

    Raises:
        ParameterError: a value that is not accepted, or a query that is too long.
    """
    query = str(query).removeprefix("?")
    if len(query) > LONGEST:
        raise ParameterError("link", f"{len(query):,} characters", f"at most {LONGEST:,} characters")
    values: dict[str, object] = {}
    for name, text in parse_qsl(query, keep_blank_values=True, errors="replace"):
        control = CONTROLS.get(name)
        if isinstance(control, Names):
            values.setdefault(name, []).append(text)
        elif control is not None:
            values[name] = _read(control, text)
    return check_settings(values, defaults, free_text) if values else None


def _read(control: Control, text: str) -> object:
    """The value that a text stands for; the text itself where it stands for none, to be refused by name."""
    if isinstance(control, Switch):
        return _SWITCH.get(text, text)
    if text.isascii() and len(text) <= 24 and (isinstance(control, Limit) or text.isdecimal()):
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    return text
