"""The live page: what a conversion's files say, as they grow. Read-only, offline, for any browser.

Nothing is remembered here: every picture is derived from the files, so a reload, a reconnection and
a restart of the page lose nothing. :mod:`.files` reads, :mod:`.story` tells where the run stands
(pure), :mod:`.view` makes HTML of it, :mod:`.app` serves it.
"""
