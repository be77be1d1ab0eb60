"""The relay: a process on the old database server's host, between Nova and a database that moves.

These modules run on that host's own Python, 3.6 or newer, with its standard library alone. Only
:mod:`recell.adapters.relay` imports them here, to ship them.
"""
