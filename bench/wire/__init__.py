"""What the wire costs, on this machine: `python -m bench.wire [--quick] [--json FILE] [--check]`."""
