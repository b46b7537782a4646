"""``python -m medsam_adapt.cli`` is ``medsam-adapt``."""

from .main import main

main()
