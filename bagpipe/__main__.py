"""`python -m bagpipe`: the same command, with the current folder importable (models of your own)."""

from bagpipe.cli.main import main

if __name__ == "__main__":
    main()
