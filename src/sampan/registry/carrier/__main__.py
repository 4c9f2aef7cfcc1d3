"""``python -m sampan.registry.carrier``."""

import sys

from sampan.registry.carrier.main import main

sys.exit(main(sys.argv[1:]))
