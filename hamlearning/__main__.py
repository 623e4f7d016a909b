"""`python -m hamlearning`, and `accelerate launch -m hamlearning train`."""

import sys

from hamlearning.cli import main


if __name__ == "__main__":
    sys.exit(main())
