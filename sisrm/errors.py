"""The errors SISRM raises on purpose: each names the argument or file, the value, and what is accepted."""

from __future__ import annotations


class SISRMError(Exception):
    """Base class. Its message is meant for the person who made the call; it never holds a path of the server."""

    def __reduce__(self):
        """Pickled by its message and facts, whatever its `__init__` asks for, so that it is itself in another process too."""
        return _made_again, (type(self), self.args, self.__dict__)


class ParameterError(SISRMError, ValueError):
    """A parameter has a value that is not accepted.

    Args:
        name: the parameter, as the caller spells it.
        value: what was given; shown shortened.
        accepted: what would have been accepted, in words ("an integer from 1 to 50").
    """

    def __init__(self, name: str, value: object, accepted: str):
        shown = repr(value)
        if len(shown) > 80:
            shown = f"{shown[:38]}...{shown[-39:]}"  # a path's end says more than its middle
        super().__init__(f"{name} is {shown}; accepted: {accepted}")
        self.name, self.value, self.accepted = name, value, accepted


class ImageError(SISRMError, ValueError):
    """An image cannot be used.

    Args:
        source: the file name (or "image" for one that came from memory).
        reason: one clear sentence.
    """

    def __init__(self, source: object, reason: str):
        super().__init__(f"{source}: {reason}")
        self.source, self.reason = str(source), reason


class WeightsError(SISRMError):
    """Weights are missing or do not fit; the message names the folder or file and what was expected."""


class Interrupted(SISRMError):
    """The caller stopped the run between two denoising steps; there is no result."""


class OutOfMemory(SISRMError):
    """Even the smallest tile of a picture does not fit into memory; there is no result."""


def _made_again(kind: type[SISRMError], args: tuple, facts: dict) -> SISRMError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error
