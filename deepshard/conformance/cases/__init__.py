"""The cases, a file for each subject; `registry.load_cases` imports them all."""
