"""The dashboard: see minidask/dashboard."""
