"""Who asked for what, and what became of it: lines of JSON in files that are only appended to.

:mod:`~jobmaster.audit.entry` has the schema, :mod:`~jobmaster.audit.file` the files, :mod:`~jobmaster.audit.trail` the
task that writes them, and :mod:`~jobmaster.audit.reading` reads them back.
"""

from __future__ import annotations
