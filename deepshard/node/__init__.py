"""The node: settings, logging and wiring. The one place where objects of different rooms meet."""
