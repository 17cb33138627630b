"""Outcomes that are kept in a file: a call goes on where it was when everything was killed."""
