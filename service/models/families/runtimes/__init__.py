"""Which runtimes load a slim checkpoint, and at which sizes."""
