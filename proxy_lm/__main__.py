"""`python -m proxy_lm` is `proxy-lm`."""

import sys

from proxy_lm.cli import main

sys.exit(main())
