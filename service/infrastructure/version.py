"""The version of the installed package."""

from importlib.metadata import version


def package_version() -> str:
    return version("taskslim")
