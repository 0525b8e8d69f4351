"""/healthz: whether the app is alive, for whoever watches over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sisrm import __version__


def health_route(preset: str | None, waiting: Callable[[], int], working: Callable[[], bool]) -> Route:
    """GET /healthz answers {"status": "ok", "preset", "version", "queue": jobs that wait, "working": whether the model is in use}.

    Args:
        preset: that runs.
        waiting: tells how many jobs wait.
        working: tells whether the model is in use.
    """

    async def healthz(request: Request) -> JSONResponse:
        state: dict[str, Any] = {"status": "ok", "preset": preset, "version": __version__}
        return JSONResponse({**state, "queue": waiting(), "working": working()}, headers={"Cache-Control": "no-store"})

    return Route("/healthz", healthz, methods=["GET", "HEAD"])
