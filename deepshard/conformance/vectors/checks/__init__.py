"""What reads the vector files, one check for each; `CHECKS` maps the name of a file to its check."""
