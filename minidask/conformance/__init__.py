"""A kit that plays the other side of docs/protocol.md, and checks an implementation of it in any language."""
