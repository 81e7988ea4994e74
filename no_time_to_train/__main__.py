"""`python -m no_time_to_train` is `ntt`."""

import sys

from no_time_to_train.cli import main

sys.exit(main())
