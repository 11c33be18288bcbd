"""The launcher: the parent of the server and of every job.

The standard library alone, so that it starts fast and stays small; the server shares `protocol` and
`packets` with it. `program` has the theory of operation.
"""
