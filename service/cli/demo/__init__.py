"""The command `taskslim demo`: one job on a real model. The rows in this package were written for it."""
