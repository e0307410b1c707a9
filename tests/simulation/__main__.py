"""``python -m tests.simulation --exchanges N --seed S``: simulates, prints tallies, and replays what failed."""

import sys

from tests.simulation.run import main

sys.exit(main())
