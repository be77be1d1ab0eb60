"""What a run did to the cloud and its users, measured around it and written down.

:mod:`.collect` reads (databases and hosts), :mod:`.figures` counts (pure), :mod:`.rows` compares
every row of Nova's databases, :mod:`.write` makes ``report.json`` and ``report.html``.
"""
