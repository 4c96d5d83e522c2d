"""Benches of `kernels`: `python -m bench.kernels cpu` measures the CPU paths against their targets."""
