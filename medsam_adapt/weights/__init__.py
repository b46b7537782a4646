"""Pretrained SAM weights: which there are, how they come onto this machine, and which file a name stands for.

``registry`` is the list, as plain data, ``store`` the folder that holds them, and ``http`` the only code of this
package that uses the network. Weights that ship with the package lie in this folder itself.
"""

from medsam_adapt.core.lazy import lazy_exports

_EXPORTS = {
    "WEIGHTS": "registry",
    "Weights": "registry",
    "download": "store",
    "get_weights": "registry",
    "import_file": "store",
    "local_path": "store",
    "resolve": "store",
    "verify": "store",
}
__all__ = sorted(_EXPORTS)
__getattr__ = lazy_exports(__name__, _EXPORTS)
