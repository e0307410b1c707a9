"""``python -m aigw_anyio``: the ``aigw`` command."""

import sys

from aigw_anyio.cli import main

if __name__ == "__main__":
    sys.exit(main())
