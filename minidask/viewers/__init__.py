"""What people look at a cluster with: each is a client, and nothing in the cluster knows of it."""
