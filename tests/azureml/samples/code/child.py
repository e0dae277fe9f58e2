"""What the training script submits below itself."""

import argparse

from azureml.core.run import Run

parser = argparse.ArgumentParser()
parser.add_argument("--score", type=float)
run = Run.get_submitted_run()
run.log("score", parser.parse_args().score)
run.parent.tag("heard from", "child")
