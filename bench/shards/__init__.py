"""What weights as shards cost, on this machine: `python -m bench.shards [--only ROW,...] [--quick] [--json FILE]`."""
