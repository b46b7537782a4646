"""Fine-tune the Segment Anything Model (SAM) to 3D medical volumes; importing this package loads no torch."""

__version__ = "0.1.0"
