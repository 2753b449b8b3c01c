"""``python -m mematlas``."""

import sys

from mematlas.cli import main

sys.exit(main())
