"""`python -m m2f_ros.cli` is `m2f`."""

from m2f_ros.cli import main

if __name__ == "__main__":
    main()
