"""The status page: one HTML document and its files, which load nothing from elsewhere."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from service.contract.errors import NotFound
from service.reports.html import style_source

DIRECTORY = Path(__file__).parents[1] / "status_page"
ASSETS = frozenset({".css", ".js", ".svg"})

router = APIRouter(include_in_schema=False)


def headers() -> dict[str, str]:
    """No script or style inside the document but the report's own, nothing from elsewhere, nobody frames it."""
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
    """The page itself; it asks the API for everything that it shows."""
    return FileResponse(DIRECTORY / "index.html", headers=headers())


@router.get("/pages/{name}")
def get_page_file(name: str) -> FileResponse:
    """A script, style or image of the page."""
    path = DIRECTORY / name
    if path.suffix not in ASSETS or path.parent != DIRECTORY or not path.is_file():
        raise NotFound(f"there is no page file {name!r}")
    return FileResponse(path, headers=headers())
