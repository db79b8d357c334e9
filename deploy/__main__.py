"""``python -m deploy`` is the command ``deploy``."""

from deploy.cli.main import main

main()
