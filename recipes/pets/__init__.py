"""Transfer learning on pictures of pets with fastai: `train.py` is the program, the other modules are what it calls."""
