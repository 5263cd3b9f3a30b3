"""`python -m fgcli`: the command `fg`, where its script is not on the path."""

from fgcli.app import main

if __name__ == "__main__":
    main()
