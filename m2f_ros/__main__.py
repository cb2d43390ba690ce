"""The `m2f` command, which a signal ends without a traceback while its modules are imported, too."""

from m2f_ros.signals import begin_command


def main() -> None:
    begin_command()  # before the imports that take long
    from m2f_ros.cli import main as run

    run()


if __name__ == "__main__":
    main()
