"""Many inputs, and a tally by kind: ``python -m tests.fuzz --inputs 10000 --seed 0``.

They run in one child process, which is started anew after the input that made it crash. ``--only N`` repeats input N of
that seed alone, prints how it ends, and keeps its files in a folder that it prints.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.fuzz import Fuzzer, print_tally
from tests.fuzz.watch import Verdict


def run():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to continue with a long run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", default=[], help="only this kind, again for more")
    parser.add_argument("--only", type=int, help="only this input, whose files are kept")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        place = Path(tempfile.mkdtemp(prefix="medsam-adapt-fuzz-"))
        kind, verdict = Fuzzer(place, options.seed, options.kind).attempt(options.only, keep=True)
        print(f"{kind}: {verdict.outcome}: {verdict.detail}\n{place}")
    elif options.child:
        _attempt_all(options)
    else:
        _supervise(options)


def _attempt_all(options):
    """In the child: a line of JSON before each input, and one after it."""
    with tempfile.TemporaryDirectory(prefix="medsam-adapt-fuzz-") as place:
        fuzzer = Fuzzer(Path(place), options.seed, options.kind)
        for number in range(options.first, options.first + options.inputs):
            print(json.dumps([number, fuzzer.kind_of(number)]), flush=True)
            print(json.dumps([number, *fuzzer.attempt(number)]), flush=True)
        fuzzer.close()


def _supervise(options):
    tally, first, last = {}, options.first, options.first + options.inputs
    while first < last:
        begun = None
        for number, kind, *verdict in _lines_of_child(options, first, last - first):
            begun, first = ((number, kind), first) if not verdict else (None, number + 1)
            if verdict:
                _note(tally, number, kind, Verdict(*verdict[0]))
        if begun is not None:
            _note(tally, *begun, Verdict("crash"))
            first = begun[0] + 1
        elif first < last:
            raise SystemExit("the fuzzer itself failed; see above.")
    print_tally(tally)
    sys.exit(1 if any(verdict.is_breach for verdicts in tally.values() for verdict in verdicts) else 0)


def _lines_of_child(options, first, count) -> Iterator[list]:
    words = ["--child", "--first", str(first), "--inputs", str(count), "--seed", str(options.seed)]
    words += [word for kind in options.kind for word in ("--kind", kind)]
    with subprocess.Popen([sys.executable, "-m", "tests.fuzz", *words], stdout=subprocess.PIPE, text=True) as child:
        yield from (json.loads(line) for line in child.stdout if line.startswith("["))


def _note(tally, number, kind, verdict):
    tally.setdefault(kind, []).append(verdict)
    if verdict.is_breach:
        print(f"input {number}, {kind}: {verdict.outcome}: {verdict.detail}", flush=True)
    if (number + 1) % 1000 == 0:
        print(f"up to input {number}", flush=True)


if __name__ == "__main__":
    run()
