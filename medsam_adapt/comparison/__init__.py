"""Methods compared on the same splits: what is trained, what came out, and whether it differs."""
