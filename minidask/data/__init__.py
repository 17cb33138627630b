"""Large bytes on one machine: a store that its processes share. Nothing here knows pickle."""
