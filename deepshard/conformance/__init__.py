"""The conformance suite: judges an implementation of `protocol-spec/` from outside, over TCP, as dialler and listener.

`python -m deepshard.conformance --target HOST:PORT` runs it; `protocol-spec/conformance.md` says what the target needs.
"""
