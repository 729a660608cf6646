"""The URIs that a caller may name: those under the allowed prefixes, and none in the deployment's own store.

The policy compares names only. `service.sources.readers.local_path` resolves the symbolic links of local paths.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from service.contract.errors import ForbiddenPath

MAX_DECODINGS = 5


@dataclass(frozen=True)
class UriPolicy:
    """A URI must be under one of the `prefixes` (empty: anywhere), and not in the store of the deployment, `own`."""

    own: str  # holds the files of all tenants
    prefixes: Sequence[str] = ()

    def check(self, uri: str) -> None:
        """Raise ForbiddenPath for a URI in or above the deployment's store, and for one under none of the prefixes."""
        place, own = canonical(uri), canonical(self.own)
        if place.startswith(own) or own.startswith(place):
            raise ForbiddenPath(
                "the URI is in the deployment's own store: name rows as dataset://<id> and the model of a job as job://<id>"
            )
        if self.prefixes and not any(place.startswith(canonical(prefix)) for prefix in self.prefixes):
            raise ForbiddenPath(f"{uri} is outside what this deployment allows (SLIM_ALLOWED_URIS)")


def canonical(uri: str) -> str:
    """One spelling of all that name the same directory. Raises ForbiddenPath for a URI with `..` in it."""
    scheme, _, rest = uri.partition("://")
    for _ in range(MAX_DECODINGS):
        rest = unquote(rest)
    segments = [segment for segment in rest.replace("\\", "/").split("/") if segment not in ("", ".")]
    if ".." in segments:
        raise ForbiddenPath(f"{uri} contains `..`: write the URI without it")
    return f"{scheme.lower()}://{'/'.join(segments)}/"
