"""The vectors of `protocol-spec/vectors/`: one module of `generate` writes each file, one of `checks` reads it.

`python -m deepshard.conformance.vectors` writes every file again, byte for byte the same; with `--check` it writes
nothing and compares. A check reads only the JSON and asks the code, so that neither can move without the other.
"""
