"""The command line: `python -m dal_lab` is the command `dal`."""

from dal_lab.program import program

if __name__ == "__main__":
    program()
