"""The benchmark: jobmaster beside what grpcio's own server and client do with the same messages on the same machine.

    python -m tests.bench [--quick] [--only NAME ...] [--json FILE] [--profile input|start|stream|unary]

Every server and every client that is measured is a process of its own (`peer`, `client`). A row is measured in
rounds in which both sides take turns, since a machine is seldom quiet: what is compared is each side's best round,
and the others are shown beside it. `measurements` says what is measured, `size` how much of it, `servers` starts
what is measured and leaves nothing behind, `table` shows the result.

Where there is no other program to compare with, a row may have jobmaster itself as its peer, in another condition, which
its name tells: "…, full beside off".
"""
