"""Many inputs, and a tally by kind: ``python -m tests.fuzz --inputs 10000 --seed 0``.

``--only N`` repeats input N of that seed alone, tells how it ends, and keeps its files where it says.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.fuzz import Fuzzer, print_tally


def run():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to go on with a long run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", help="only this kind, again for more")
    parser.add_argument("--only", type=int, help="only this input, whose files are kept")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="medsam-adapt-fuzz-"))
    fuzzer = Fuzzer(place, options.seed, options.kind)
    if options.only is not None:
        kind, verdict = fuzzer.attempt(options.only, keep=True)
        print(f"{kind}: {verdict.outcome}: {verdict.detail}\n{place}")
        return
    breaches = 0
    tally = {}
    for number in range(options.first, options.first + options.inputs):
        kind, verdict = fuzzer.attempt(number)
        tally.setdefault(kind, []).append(verdict)
        if verdict.is_breach:
            breaches += 1
            print(f"input {number}, {kind}: {verdict.outcome}: {verdict.detail}", flush=True)
        if (number + 1) % 1000 == 0:
            print(f"up to input {number}: {breaches} breaches", flush=True)
    fuzzer.close()
    print_tally(tally)
    sys.exit(1 if breaches else 0)


run()
