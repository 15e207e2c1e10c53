"""`python -m bagpipe`: the same command.

Python has put the current folder before its own modules; it is taken out here, before anything else is imported, and
`bagpipe.local.user_modules` offers it last.
"""

import os
import sys


def _here() -> list[str]:
    try:
        return [os.getcwd()]
    except FileNotFoundError:  # It has been removed, and Python has put nothing before its own modules.
        return [""]


if __name__ == "__main__":
    if not sys.flags.safe_path and sys.path[:1] in (_here(), [""]):
        del sys.path[0]

    from bagpipe.cli.main import main

    main()
