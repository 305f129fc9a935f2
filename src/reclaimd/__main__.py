"""`python -m reclaimd` is the command `reclaimd`."""

from reclaimd.daemon.cli import main

if __name__ == "__main__":
    main()
