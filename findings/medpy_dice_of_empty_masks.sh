#!/usr/bin/env bash
# One would guess that medpy's dc and jc treat two empty masks alike, and that a pinned medpy gives one number whatever
# NumPy is beside it. medpy 0.5.2's dc of two empty masks is 1.0 with NumPy 2.2.6 and nan with NumPy 2.4.6, while its jc
# is 1.0 with both: it waits for Python's ZeroDivisionError, and NumPy's count_nonzero now returns a NumPy integer, whose
# division gives nan. Whoever averages the DSC over cases in which an organ is absent gets a higher mean with the older
# NumPy, and nan, or a mean over fewer cases, with the newer one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/empty.py" << 'PY'
import sys, warnings

import numpy as np
from medpy.metric import binary

warnings.simplefilter("ignore")
empty, organ = np.zeros((4, 4, 4), bool), np.zeros((4, 4, 4), bool)
organ[1:3, 1:3, 1:3] = True
found = {name: (float(f(empty, empty)), float(f(organ, organ)), float(f(empty, organ)))
         for name, f in (("dc", binary.dc), ("jc", binary.jc))}
print(f"numpy {np.__version__}: (both empty, equal, one empty)", found)
dc = 1.0 if sys.argv[1] == "older" else float("nan")
expected = {"dc": (dc, 1.0, 0.0), "jc": (1.0, 1.0, 0.0)}
sys.exit(0 if str(found) == str(expected) else 1)
PY

for pair in older:2.2.6 newer:2.4.6; do
    python3 -m venv "$work/${pair%:*}"
    "$work/${pair%:*}/bin/pip" install --quiet medpy==0.5.2 numpy=="${pair#*:}" scipy==1.16.3 SimpleITK==2.5.3
    "$work/${pair%:*}/bin/pip" list 2> /dev/null | grep -i -E "^(medpy|numpy) "
    "$work/${pair%:*}/bin/python" "$work/empty.py" "${pair%:*}"
done
