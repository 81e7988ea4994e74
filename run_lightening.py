"""Run anything that a YAML under pl_configs/ describes: ``python run_lightening.py --config pl_configs/NAME.yaml``."""

import sys

from no_time_to_train.lightning_cli import main

if __name__ == "__main__":
    sys.exit(main())
