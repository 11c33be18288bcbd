"""`python -m jobmaster`: the command line of the client."""

from __future__ import annotations

from jobmaster.cli import main

if __name__ == "__main__":
    main()
