"""One of the processes of ``medsam-adapt train --gpus N``; the first of them prints what they do."""

import json
import sys

from medsam_adapt.workflows.training_process import work

from .reporter import TERMINAL

if __name__ == "__main__":
    work(json.loads(sys.argv[1]), TERMINAL)
