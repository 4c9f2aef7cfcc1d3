"""``python -m sampan.storage.unpacking``."""

import sys

from sampan.storage.unpacking.server import main

sys.exit(main(sys.argv[1:]))
