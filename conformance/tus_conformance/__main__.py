"""`python -m tus_conformance`."""

from tus_conformance.cli import main

if __name__ == "__main__":
    main(prog_name="tus-conformance")
