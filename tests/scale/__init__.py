"""Thousands of connections at a time: what an idle one costs, and what the others notice of them.

    python -m tests.scale.connections [--idle 9900] [--active 100] [--seconds 40] [--json FILE]

The server (`server`), the holder of the idle connections (`idle`) and the callers (`active`) are processes of their
own; `connections` starts them, has them measure and prints the result.
"""
