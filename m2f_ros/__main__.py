"""The `m2f` command, which Ctrl-C ends without a traceback while its modules are imported, too."""

import sys


def main() -> None:
    try:
        from m2f_ros.cli import main as run
    except KeyboardInterrupt:
        print("m2f: interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
