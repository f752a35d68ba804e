"""What can go wrong, tried on purpose: `python -m tests.faults --help`."""
