"""The only door to cgroupfs.

Pure parts: :mod:`.limits` (what may be asked for, and the writes that ask the kernel for it), :mod:`.statistics`
(what the kernel answers) and :mod:`.mounts` (where the hierarchy is). Parts that touch files: :mod:`.interface`
(one read or write), :mod:`.startup` with :mod:`.root` and :mod:`.controllers`, :mod:`.tree` (a folder for each job)
with :mod:`.processes` (signals), :mod:`.devices` (which disk ``io.max`` speaks about).

Every call is a quick synchronous file operation that tries once. Waiting and retrying over time are the caller's.
"""
