"""The options of the commands that have many, and the one that all commands share which use a server."""
