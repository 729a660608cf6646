"""The packages that some formats need, which an installation of the worker may lack."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from service.contract.errors import UnsupportedFormat
from service.contract.options import Format

# Format -> the packages of the extra of pyproject.toml with its name.
PACKAGES: Mapping[Format, Sequence[str]] = {Format.onnx: ("onnx", "onnxscript", "onnxruntime")}


def check_packages(formats: Sequence[Format]) -> None:
    """Raise UnsupportedFormat for a format whose packages are not installed."""
    for name in formats:
        missing = [package for package in PACKAGES.get(name, ()) if find_spec(package) is None]
        if missing:
            raise UnsupportedFormat(
                f"`{name}`: this worker lacks {', '.join(missing)}: install `taskslim[worker,{name}]` there, or leave "
                f"`{name}` out of `output.formats`",
                param="output.formats",
            )
