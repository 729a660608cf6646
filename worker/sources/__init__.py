"""The files of a model or an adapter on this machine: fetched, checked, and made an ordinary checkpoint."""
