"""What consensus reaches on this machine: `python -m bench.consensus [--quick] [--only ROW,...] [--json FILE]`."""
