"""`python -P -m hallmark.server.cli` is `hallmark`."""

from hallmark.server.cli import main

if __name__ == "__main__":
    main()
