"""``python -m coread`` is the ``coread`` command."""

from coread.cli import main

main()
