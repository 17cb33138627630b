"""The wire that client, scheduler, worker and slot share: frames, messages and the handshake, all without I/O."""
