"""The wire protocol, without sockets: handshake, frames, the session's states, and the catalogue of messages."""
