"""A seeded fuzzer of everything that is read from disk: ``python -m tests.fuzz --inputs 10000 --seed 0``."""
