"""How two programs meet: addresses, the access file, sockets, and messages over them."""
