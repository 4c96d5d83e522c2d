"""The `deepshard` command: a person's way to a node's HTTP API, and to a key file."""
