"""The notebooks, and the files that they need. `keras-butterfly examples DIR` copies them from the installed package."""
