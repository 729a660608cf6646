"""The version of the package."""

from importlib.metadata import version


def package_version() -> str:
    """The version of the installed package."""
    return version("taskslim")
