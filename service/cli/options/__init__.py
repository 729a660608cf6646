"""The options of the commands that have many."""
