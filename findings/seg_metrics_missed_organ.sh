#!/usr/bin/env bash
# A missed organ has the best possible HD95 in seg-metrics 1.2.8.
# One would guess: a structure that the prediction misses altogether has no Hausdorff distance, or an infinite one.
# What happens: hd95, hd and msd are 0 mm, as for a perfect prediction, so each missed organ improves the mean distance.
# Who is hurt: whoever compares methods by mean HD95, since the method that misses more organs looks better.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python -m pip install --quiet --no-deps --target "$folder/site" \
    seg-metrics==1.2.8 medutils==0.1.21 numpy==2.2.6 SimpleITK==2.5.0 2>/dev/null
cat > "$folder/show.py" <<'PYTHON'
import sys
import types
from importlib.metadata import version

# Used for plots, tables and statistics only, and not by what is shown here: empty modules spare their installation.
for name in ("matplotlib", "matplotlib.pyplot", "pandas", "tqdm", "pingouin", "scipy", "scipy.ndimage"):
    module = sys.modules.setdefault(name, types.ModuleType(name))
    module.tqdm = module.ndimage = module.pyplot = module
import numpy as np
from seg_metrics.seg_metrics import computeQualityMeasures

reference = np.zeros((40, 40, 20), np.uint8)
reference[10:30, 10:30, 5:15] = 1
shifted = np.roll(reference, 1, axis=0)
missed = np.zeros_like(reference)
print("seg-metrics", version("seg-metrics"), "numpy", np.__version__)
scores = {}
for name, prediction in (("shifted by one voxel", shifted), ("missed altogether", missed)):
    found = computeQualityMeasures(prediction, reference, np.array([1.0, 1.0, 1.0]), {"dice", "hd95", "hd", "msd"})
    scores[name] = found
    print(f"{name}: DSC {found['dice']:.3f}, HD95 {found['hd95']:.1f} mm, HD {found['hd']:.1f} mm, MSD {found['msd']:.2f} mm")
assert scores["missed altogether"]["hd95"] == 0 < scores["shifted by one voxel"]["hd95"]
print("The missed organ has the smaller HD95.")
PYTHON
PYTHONPATH="$folder/site" python "$folder/show.py" 2>/dev/null
