"""The command line: `python -m dal_lab datasets|features|run|grid|report|compare|notebooks|publish`."""

import sys

from dal_lab.companion.command_line import main

if __name__ == "__main__":
    sys.exit(main())
