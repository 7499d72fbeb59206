"""`python -m dropmae`, the form that torchrun needs."""

import sys

from dropmae.cli import main

sys.exit(main())
