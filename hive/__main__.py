"""`python -m hive` is the command `hive`."""

from hive.cli import main

if __name__ == "__main__":
    main()
