"""Which URIs a stranger may name: under the prefixes that the deployment allows, and never in its own storage.

Pure comparison of names. `service.sources.readers.local_path` follows the symbolic links of a local path.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from service.contract.errors import ForbiddenPath

MAX_DECODINGS = 5


@dataclass(frozen=True)
class UriPolicy:
    """`own`: the deployment's storage, where other tenants' things lie too. `prefixes`: what is allowed; empty: all."""

    own: str
    prefixes: Sequence[str] = ()

    def check(self, uri: str) -> None:
        """Raise `ForbiddenPath` for a URI in, or above, the deployment's storage, or outside the prefixes."""
        place, own = canonical(uri), canonical(self.own)
        if place.startswith(own) or own.startswith(place):
            raise ForbiddenPath("this is the deployment's own storage; name uploaded rows as dataset://<id>")
        if self.prefixes and not any(place.startswith(canonical(prefix)) for prefix in self.prefixes):
            raise ForbiddenPath(f"{uri} is outside what this deployment allows (SLIM_ALLOWED_URIS)")


def canonical(uri: str) -> str:
    """One spelling for all spellings of a place, as a directory. Raises `ForbiddenPath` for one with `..` in it."""
    scheme, _, rest = uri.partition("://")
    for _ in range(MAX_DECODINGS):
        rest = unquote(rest)
    segments = [segment for segment in rest.replace("\\", "/").split("/") if segment not in ("", ".")]
    if ".." in segments:
        raise ForbiddenPath(f"{uri} holds `..`; write the place itself")
    return f"{scheme.lower()}://{'/'.join(segments)}/"
