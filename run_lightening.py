"""Run anything that a YAML under pl_configs/ describes: ``python run_lightening.py --config pl_configs/NAME.yaml``."""

import sys

from no_time_to_train.io.process import program


def _main(args: list[str]) -> int:
    # Imported here, since torch takes seconds: a signal or too little memory is answered during the import too.
    from no_time_to_train.cli.lightning import main

    return main(args)


if __name__ == "__main__":
    sys.exit(program(_main, "run_lightening.py"))
