"""The commands of `taskslim`, by subject; `service.cli.__main__` puts them together."""
