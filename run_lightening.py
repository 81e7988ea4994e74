"""Run anything that a YAML under pl_configs/ describes: ``python run_lightening.py --config pl_configs/NAME.yaml``."""

import sys

from no_time_to_train.io.process import program


def _main(args: list[str]) -> int:
    # Imported here: a signal or too little memory is answered during the imports too, of which torch's takes seconds.
    from no_time_to_train.cli.lightning.arguments import answer_early

    status = answer_early(args)
    if status is not None:
        return status
    from no_time_to_train.cli.lightning.command import main

    return main(args)


if __name__ == "__main__":
    sys.exit(program(_main, "run_lightening.py"))
