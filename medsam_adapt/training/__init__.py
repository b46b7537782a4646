"""What the bundles add to MONAI's trainer, and what can go wrong while it runs."""

from medsam_adapt.core.lazy import lazy_exports

_MODULES = ("failures", "run_handler", "setup", "trainer")
__getattr__ = lazy_exports(__name__, {}, _MODULES)
