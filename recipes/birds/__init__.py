"""Transfer learning on pictures of birds: `train.py` is the program, the other modules are what it calls."""
