"""The report of a run: one HTML page that needs no network, no server and no other file (docs/report.md)."""
