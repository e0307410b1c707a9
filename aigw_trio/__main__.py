"""``python -m aigw_trio``."""

from aigw_trio import main

raise SystemExit(main())
