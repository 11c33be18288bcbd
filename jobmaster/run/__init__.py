"""Jobs that run: the launcher's side of the server, and what is built on it."""
