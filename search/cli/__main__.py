"""`python -m search.cli` is `search`."""

from search.cli.main import run

if __name__ == "__main__":
    run()
