"""`minidask-watch`: what goes over the wire, message by message. Nothing else imports it; no cluster knows of it."""
