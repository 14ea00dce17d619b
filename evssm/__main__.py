"""`python -m evssm` is `evssm`."""

from evssm.cli import main

if __name__ == "__main__":
    main()
