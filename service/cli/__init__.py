"""The command line `taskslim`."""
