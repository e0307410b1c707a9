"""``python -m aigw_asyncio``."""

from aigw_asyncio import main

raise SystemExit(main())
