"""`jobmaster doctor`: what this host can do for a server, and what is to be done about the rest.

A module for each subject: a function that looks, which is the one door to what it looks at, and a pure one that judges what
was seen. What a server that starts judges too is in `server.judgements`. Nothing here changes the host: no folder is made, no
lock taken, no controller enabled.
"""
