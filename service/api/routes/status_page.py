"""Routes of the status page: an HTML document, its scripts and its style, all served from here."""

from functools import cache
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from service.contract.errors import NotFound
from service.reports.html import style_source

DIRECTORY = Path(__file__).parents[1] / "status_page"
ASSETS = frozenset({".css", ".js", ".svg"})

router = APIRouter(include_in_schema=False)


def headers() -> dict[str, str]:
    """Headers that allow only scripts and styles of this server, the style of the report, and no framing."""
    policy = (
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self' {style_source()}",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return {
        "Content-Security-Policy": "; ".join(policy),
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-cache",
    }


@router.get("/")
def get_page() -> FileResponse:
    """The HTML document. Its scripts read everything from the API."""
    return FileResponse(DIRECTORY / "index.html", headers=headers())


@router.get("/pages/{name:path}")
def get_page_file(name: str) -> FileResponse:
    """A script, style sheet or image of the page, by its path in the directory of the page."""
    path = page_files().get(name)
    if path is None:
        raise NotFound(f"there is no page file {name!r}")
    return FileResponse(path, headers=headers())


@cache
def page_files() -> dict[str, Path]:
    """The files that the page may load, by name. A name that leads elsewhere is none of them."""
    files = (path for path in DIRECTORY.rglob("*") if path.suffix in ASSETS)
    return {path.relative_to(DIRECTORY).as_posix(): path for path in files}
