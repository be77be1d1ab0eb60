"""What talks MySQL's protocol for the data mover: sessions, SQL names, the binlog.

PyMySQL is the client. Its own result sets are slow in bulk, and the C clients have to be compiled on
the operator's machine; so bulk rows are read past it (:mod:`.session`), as SQL literals that the
server itself wrote, and never become Python values.
"""
