"""What may reach Gradio at all: which addresses, how large a request, and no file that is not an upload.

Gradio serves more than this app uses: it fetches web addresses on behalf of a caller, stores links and recordings, and
takes a thousand files per request. What is not needed is closed here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.responses import JSONResponse, PlainTextResponse

from sisrm.errors import ParameterError
from sisrm.ui.storage import FRESH_SECONDS, Storage, is_full
from sisrm.ui.texts import language, text

logger = logging.getLogger(__name__)

MAX_UPLOAD_BYTES = 32 * 2**20
"""Largest file that can be uploaded."""

MAX_UPLOADS = 4
"""Most files in one upload request; the app and gradio_client send one."""

MAX_BODY_BYTES = 2**20
"""Largest body of a request that is no upload."""

MAX_DEPTH = 20
"""Deepest nesting of lists and objects in a request."""

MAX_MCP_BYTES = 16 * 2**20
"""Largest body of a request to the MCP server, whose images come as base64 text."""

STALL_SECONDS = 30
"""An upload of which nothing comes for so long is ended, well before what came of it is taken for a rest that nobody needs."""

_API = "/gradio_api"
_MCP = f"{_API}/mcp"
_OPEN = re.compile(
    r"app_id|call/.+|cancel|file=(?!\w\w+:).+|heartbeat/.+|info|openapi\.json|queue/(data|join)|reset|run/.+|"
    r"startup-events|theme\.css|upload|upload_progress",
    re.DOTALL,
)


class Guard:
    """ASGI middleware: unknown addresses answer 404, bodies that are too large 413, uploads for which there is no room 507.

    Args:
        storage: where uploads go.
        mcp: whether the MCP server's addresses are known.
    """

    def __init__(self, app, storage: Storage, mcp: bool = False):
        self.app, self.storage, self.mcp = app, storage, mcp

    async def __call__(self, scope, receive, send) -> None:
        """Pass the request on, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].rstrip("/")
        mcp = self.mcp and (path == _MCP or path.startswith(f"{_MCP}/"))
        if not mcp and not _is_open(path):
            await JSONResponse({"detail": "Not found"}, 404)(scope, receive, send)
            return
        headers = Headers(scope=scope)
        upload = path == f"{_API}/upload"
        most = MAX_UPLOAD_BYTES + 2**16 if upload else MAX_MCP_BYTES if mcp else MAX_BODY_BYTES
        told = headers.get("content-length", "")
        length = int(told) if told.isdecimal() else 0
        if length > most:
            await JSONResponse({"detail": _too_large(most)}, 413)(scope, receive, send)
            return
        lang = language(headers.get("accept-language"))
        if upload and not await asyncio.to_thread(self.storage.takes, length or most):
            await _no_room("no_room", lang)(scope, receive, send)
            return
        counted = _UploadCounter(headers.get("content-type", "")) if upload else None
        received, answered = 0, False

        async def bounded_receive():
            nonlocal received
            try:
                message = await asyncio.wait_for(receive(), STALL_SECONDS if upload else None)
            except asyncio.TimeoutError:
                raise MultiPartException("The upload stalled.") from None
            if message["type"] != "http.request":
                if upload and received:
                    # Gradio deletes what it wrote for this error alone.
                    raise MultiPartException("The upload was cut off.")
                return message
            received += len(message.get("body", b""))
            if received > most:
                raise MultiPartException(_too_large(most)) if upload else HTTPException(413, _too_large(most))
            if counted is not None:
                counted.add(message.get("body", b""))
            return message

        async def noted_send(message):
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self.app(scope, bounded_receive, noted_send)
        except OSError as error:
            if answered or not is_full(error):
                raise
            logger.exception("the disk is full")
            await _no_room("disk_full", lang)(scope, receive, send)


def check_inputs(inputs: list[Any], count: int, upload_folder: Path, fewest: int | None = None) -> None:
    """Refuse a call that Gradio would stumble over, or fetch or copy a file for.

    Args:
        inputs: the call's values, as they came over the wire.
        count: how many there should be.
        upload_folder: where Gradio keeps uploads.
        fewest: how many there must be at least; None: `count`.

    Raises:
        ParameterError: naming "data" or "image".
    """
    fewest = count if fewest is None else fewest
    if not fewest <= len(inputs) <= count:
        raise ParameterError("data", inputs, f"a list of {count if fewest == count else f'{fewest} to {count}'} values")
    folder = upload_folder.resolve()
    for value, depth in _nested(inputs):
        if depth > MAX_DEPTH:
            raise ParameterError("data", "nested lists", f"at most {MAX_DEPTH} levels of lists and objects")
        if isinstance(value, Mapping) and ("meta" in value or "path" in value):
            _check_file(value.get("path"), folder)


def folders_of_files(inputs: list[Any]) -> set[str]:
    """The names of the folders in which the files of a call lie, which nobody has checked yet."""
    paths = [value.get("path") for value, _ in _nested(inputs) if isinstance(value, Mapping)]
    return {PurePath(path).parent.name for path in paths if isinstance(path, str)}


def blocked_paths(project: Path, upload_folder: Path) -> list[str]:
    """Folders that are never served, whatever Gradio thinks of them, with those of GRADIO_BLOCKED_PATHS, as Gradio reads it; none that
    uploads and results lie in."""
    more = [path for entry in os.environ.get("GRADIO_BLOCKED_PATHS", "").split(",") if (path := entry.strip())]
    system = ("/etc", "/proc", "/sys", "/dev", "/run", "/root", "/home", "/var")
    candidates = [project, Path.home(), *map(Path, (*system, *more))]
    resolved = upload_folder.resolve()
    return [str(path) for path in candidates if path != Path("/") and not resolved.is_relative_to(path.resolve())]


class _UploadCounter:
    """Counts the parts of a multipart body as it arrives."""

    def __init__(self, content_type: str):
        boundary = parse_options_header(content_type)[1].get(b"boundary")  # as what parses the body reads it
        self._mark = b"--" + boundary if boundary else b""
        self._parts, self._rest = 0, b""

    def add(self, block: bytes) -> None:
        """Raise MultiPartException at one part more than MAX_UPLOADS."""
        if not self._mark:
            return
        data = self._rest + block
        self._parts += data.count(self._mark)
        # A mark that is cut by the end of the block is counted with the next one, and none twice.
        self._rest = data[-(len(self._mark) - 1) :]
        if self._parts > MAX_UPLOADS + 1:  # the body ends with a mark of its own
            raise MultiPartException(f"Too many files; at most {MAX_UPLOADS} are accepted.")


def _no_room(why: str, lang: str) -> PlainTextResponse:
    return PlainTextResponse(text(why, lang), 507, {"Retry-After": str(FRESH_SECONDS)})


def _nested(inputs: list[Any]) -> Iterator[tuple[Any, int]]:
    """All values of a call, and how deep each lies in lists and objects."""
    left = [(value, 0) for value in inputs]
    while left:
        value, depth = left.pop()
        yield value, depth
        if isinstance(value, Mapping):
            left += [(entry, depth + 1) for entry in value.values()]
        elif isinstance(value, list):
            left += [(entry, depth + 1) for entry in value]


def _is_open(path: str) -> bool:
    if path == _API or path.startswith(f"{_API}/"):
        return _OPEN.fullmatch(path[len(_API) + 1 :]) is not None
    return path.split("/")[1:2] not in (["monitoring"], ["login"], ["logout"])


def _check_file(path: object, folder: Path) -> None:
    accepted = "an uploaded image file (gradio_client: handle_file)"
    if not isinstance(path, str) or "\0" in path:
        raise ParameterError("image", type(path).__name__, accepted)
    try:
        inside = Path(path).resolve().is_relative_to(folder)
    except (OSError, RuntimeError, ValueError):  # a name that is too long, or links in a circle
        inside = False
    if not inside:
        raise ParameterError("image", Path(path).name, accepted)


def _too_large(most: int) -> str:
    return f"The request exceeds the maximum allowed size of {most} bytes."
