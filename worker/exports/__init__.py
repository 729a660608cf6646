"""Files of a slim model for other runtimes."""
