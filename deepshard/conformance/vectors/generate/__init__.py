"""What writes the vector files, one module for each; `FILES` maps the name of a file to what makes it."""
