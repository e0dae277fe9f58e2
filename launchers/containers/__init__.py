"""How a container engine is called: pure functions from what is wanted to a command line, nothing is run here."""
