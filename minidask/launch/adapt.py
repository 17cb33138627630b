"""How many machines a cluster should have, from what is to be done. Pure."""
