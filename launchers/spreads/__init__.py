"""How one node becomes ranks: pure functions from a job and a node to command lines, called on the node."""
