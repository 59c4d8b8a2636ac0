"""Damaged and hostile bytes for everything that reads files: `python -m tests.fuzz --help`, `make fuzz`."""
