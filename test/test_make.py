"""The Makefile and the scripts in folders, and with values, that are full of signs: nothing in them is run.

A copy of them in a folder of its own, with programs that only note how they are called.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parent.parent
SIGNS = [
    *("a b", "it's", 'say "x"', "$(touch victim)", "`touch victim`", "a;touch victim", "a#b", "a%b", "-rf", "größe"),
    *("a&touch victim", "a|touch victim", "${HOME}", "$HOME", "a\\b", "(x)", "*", "~", "a:b", "!x", "a,b", "<x>", " "),
]
FINE = {"größe", "a,b", "~", "-rf"}  # of a folder; values may have all


@pytest.fixture
def checkout(tmp_path):
    """Makes a checkout in a folder of a name, with an `m2f` and a `python` that write their arguments to calls.txt."""
    if not shutil.which("make"):
        pytest.skip("make is absent")

    def make(name="checkout", built=True):
        folder = tmp_path / name
        (folder / "scripts").mkdir(parents=True)
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, folder)
        for path in (ROOT / "scripts").glob("*.sh"):
            shutil.copy(path, folder / "scripts")
        shutil.copytree(ROOT / "scripts" / "ros_wheels", folder / "scripts" / "ros_wheels")
        if built:
            # The environment as it is when all is up to date.
            program = '#!/bin/bash\nprintf "%s\\0" "${0##*/}" "$@" >>"$CALLS"\n'
            (folder / "scripts" / "env.sh").write_text("PATH=bin:$PATH\n")
            (folder / "bin").mkdir()
            for script in ("make_env.sh", "build.sh"):
                (folder / "scripts" / script).write_text("mkdir -p .venv\n")
            for file in ("CMakeLists.txt", "package.xml"):
                (folder / file).touch()
            (folder / "scripts" / "repair_ros_wheels.py").touch()
            (folder / "resource").mkdir()
            (folder / "resource" / "executable.in").touch()
            for name in ("m2f_ros", "launch", "config"):
                (folder / name).mkdir()
            (folder / "bin" / "m2f").write_text(program)
            (folder / "bin" / "m2f").chmod(0o755)
        return folder

    return make


def run(folder, *arguments, **env):
    process = subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "CALLS": str(folder / "calls.txt"), **env},
        capture_output=True,
        text=True,
        timeout=600,
    )
    calls = folder / "calls.txt"
    return process, calls.read_text().split("\0")[:-1] if calls.exists() else []


NAMES = ("SOURCE", "LABELS", "TAXONOMY", "MODEL", "OUT")  # in the order in which they are passed on


@pytest.mark.parametrize("first", range(0, len(SIGNS), len(NAMES)))
def test_values_reach_the_command_as_they_are(checkout, first):
    folder = checkout()
    values = dict(zip(NAMES, [*SIGNS, "a\nb"][first : first + len(NAMES)], strict=False))
    process, calls = run(folder, "demo", *(f"{name}={value.replace('$', '$$')}" for name, value in values.items()))
    assert process.returncode == 0, process.stderr
    # make takes off the spaces in front.
    assert calls == ["m2f", "demo", *(f"--{name.lower()}={value}" for name, value in values.items() if value.strip())]
    # The same in the environment is not meant for it.
    process, again = run(folder, "demo", **values, ROS_DISTRO=next(iter(values.values())))
    assert process.returncode == 0 and again[len(calls) :] == ["m2f", "demo"], process.stderr
    assert not list(folder.rglob("victim"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "$(shell touch victim)") for name in (*NAMES, "PYTHON", "TORCH", "WHEELS", "ROS", "TEST", "TARGET")),
        ("OUT", "a$b"),
        ("OUT", "$$$"),
    ],
)
def test_a_dollar_for_make_itself_is_refused(checkout, name, value):
    folder = checkout()
    process, calls = run(folder, "demo", f"{name}={value}")
    assert process.returncode == 2 and not calls
    (line,) = process.stderr.splitlines()
    assert f"{name}=…: make takes the dollar in this value" in line
    assert not list(folder.rglob("victim"))


@pytest.mark.parametrize(
    "name", ["a b'c\"$(touch victim)`touch victim`;#%", "-rf", "a:b*?[x]~\\${HOME}$HOME", "größe&|<>(!)^"]
)
def test_a_checkout_in_a_folder_of_any_name(checkout, tmp_path, name):
    folder = checkout(name)
    process, calls = run(folder, "demo", "OUT=x")
    assert (process.returncode, calls) == (0, ["m2f", "demo", "--out=x"]), process.stderr
    assert (folder / "build" / "wanted.txt").read_text().startswith(f"{folder} python3 ")
    process, _ = run(folder, "clean")
    assert process.returncode == 0 and not (folder / "build").exists()
    assert not list(tmp_path.rglob("victim"))


def test_a_build_where_colcon_and_cmake_would_fail_half_way_is_refused(checkout, tmp_path):
    env = {**os.environ, "PATH": f"{stubs(tmp_path)}:{os.environ['PATH']}"}
    command = ["bash", "scripts/make_env.sh", "python3", "torch", "wheels", "kilted"]
    for name in filter(str.strip, SIGNS):
        folder = checkout(name, built=False)
        process = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
        refused = "has a space or a sign in its name" in process.stderr
        assert process.returncode == 1 and refused == (name not in FINE), process.stderr
        assert not refused or len(process.stderr.splitlines()) == 1
        assert not (folder / "build").exists() or not refused
    assert not list(tmp_path.rglob("victim"))


def stubs(tmp_path):
    """Programs that a build needs, and a Python that gives all but its version up."""
    folder = tmp_path / "stubs"
    folder.mkdir(exist_ok=True)
    for name in ("cmake", "g++", "git"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    (folder / "python3").write_text('#!/bin/sh\n[ "$1" = -c ] || exit 1\ncase $2 in *print*) echo "$0" ;; esac\n')
    (folder / "python3").chmod(0o755)
    return folder


def test_a_path_that_is_too_long_is_refused(checkout, tmp_path):
    folder = checkout("/".join(["long" * 20] * 3), built=False)
    env = {**os.environ, "PATH": f"{stubs(tmp_path)}:{os.environ['PATH']}"}
    command = ["bash", "scripts/make_env.sh", "python3", "torch", "wheels", "kilted"]
    process = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert process.returncode == 1 and "too long for the first line of a script" in process.stderr


SET = "there is no set of wheels WHEELS={!r}, only jazzy kilted"
DISTRIBUTION = "ROS={!r} is not in this shell, or {}/python3 cannot import its rclpy: source its setup.bash"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        *(({"WHEELS": name}, SET.format(name)) for name in ("noetic", "../x", "jazzy kilted", "a;touch victim")),
        ({"ROS": "jazzy"}, DISTRIBUTION),
        ({"ROS": "a;touch victim"}, DISTRIBUTION),
        ({"ROS": "jazzy", "WHEELS": "jazzy"}, "ROS=jazzy is the distribution of this machine and WHEELS=jazzy is from"),
    ],
)
def test_a_ros_that_is_absent_is_refused_before_anything_is_installed(checkout, tmp_path, values, line):
    folder = checkout(built=False)
    (folder / "scripts" / "repair_ros_wheels.py").touch()
    path = stubs(tmp_path)
    (path / "python3").write_text((path / "python3").read_text() + "case $2 in *rclpy*) exit 1 ;; esac\n")
    words = [f"{name}={value}" for name, value in values.items()]
    process, _ = run(folder, "build", *words, PATH=f"{path}:{os.environ['PATH']}", ROS_DISTRO="kilted")
    assert process.returncode == 2 and not (folder / ".venv").exists()
    said = [text for text in process.stderr.splitlines() if not text.startswith("make: ")]
    assert len(said) == 1 and line.format(values.get("ROS"), path) in said[0]
    assert not list(folder.rglob("victim"))


def test_the_set_of_wheels_of_the_command_line_and_of_the_environment(checkout):
    folder = checkout()
    for words, env, used in (
        ([], {}, "wheels kilted"),
        (["WHEELS=jazzy"], {}, "wheels jazzy"),
        ([], {"WHEELS": "jazzy"}, "wheels jazzy"),
        # A distribution that this Python cannot import.
        ([], {"ROS_DISTRO": "jazzy"}, "wheels jazzy"),
        ([], {"ROS_DISTRO": "humble"}, "wheels kilted"),
        ([], {"ROS_DISTRO": "$(shell touch victim)"}, "wheels kilted"),
    ):
        process, _ = run(folder, "demo", *words, **env)
        assert process.returncode == 0, process.stderr
        assert (folder / "build" / "wanted.txt").read_text().endswith(f" {used}\n")
    assert not list(folder.rglob("victim"))


@pytest.mark.parametrize("version", ["3.9", "3.99"])
def test_a_python_outside_the_range_of_pyproject_is_refused(checkout, tmp_path, version):
    folder = checkout(built=False)
    path = stubs(tmp_path)
    numbers = version.replace(".", ", ")
    (path / "python3").write_text(
        '#!/bin/sh\ncase "$1 $2" in --version*) echo Python x ;; *print*) echo "$0" ;;\n'
        f'*) exec {sys.executable} -c "import sys; sys.version_info = ({numbers}); $2" ;; esac\n'
    )
    env = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    command = ["bash", "scripts/make_env.sh", "python3", "torch", "wheels", "kilted"]
    process = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert process.returncode == 1 and not (folder / ".venv").exists()
    (line,) = process.stderr.splitlines()
    assert "Python x is not supported: name a Python 3.10 to 3.1" in line


def test_clean_leaves_what_the_build_did_not_make(checkout, tmp_path):
    folder = checkout()
    for name, sign in ((".venv", "made-for"), ("build", "wanted.txt"), ("install", "mine"), ("log", "mine")):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / sign).write_text("")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "wanted.txt").write_text("")
    shutil.rmtree(folder / "build")
    (folder / "build").symlink_to(tmp_path / "elsewhere")
    process, _ = run(folder, "clean")
    assert process.returncode == 0
    left = {path.name for path in folder.iterdir()}
    assert {"install", "log"} <= left and not {".venv", "build"} & left
    assert (tmp_path / "elsewhere" / "wanted.txt").exists()
    assert "install stays: the build did not make it" in process.stderr


@pytest.mark.parametrize("name", [".venv", "install"])
def test_a_folder_in_the_way_of_a_build_is_not_removed(checkout, tmp_path, name):
    folder = checkout(built=False)
    (folder / name).mkdir()
    (folder / name / "mine").write_text("mine")
    env = {**os.environ, "PATH": f"{stubs(tmp_path)}:{os.environ['PATH']}"}
    command = ["bash", "scripts/make_env.sh", "python3", "torch", "wheels", "kilted"]
    process = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert process.returncode == 1 and f"{name} is in the way, and not of this build" in process.stderr
    assert (folder / name / "mine").exists()


def test_make_card_leaves_what_is_in_its_folder(checkout):
    folder = checkout()
    (folder / "out" / "card").mkdir(parents=True)
    (folder / "out" / "card" / "mine").write_text("mine")
    process, calls = run(folder, "card")
    assert process.returncode == 2 and not calls and (folder / "out" / "card" / "mine").exists()
    assert "out/card is there, of an earlier make card" in process.stderr


def test_the_test_of_the_wheel_gets_the_build_of_pytorch(checkout, tmp_path):
    folder, program = checkout(), tmp_path / "program"
    program.write_text('#!/bin/bash\nprintf "%s\\0" "$@" "$TORCH_INDEX" >>"$CALLS"\n')
    program.chmod(0o755)
    arguments = (f"PYTHON={program}", "TORCH=torch==2.11 ; touch victim", "TORCH_INDEX=https://x/it's")
    process, calls = run(folder, "wheel-test", *arguments)
    assert process.returncode == 0, process.stderr
    assert calls[-3:] == ["scripts/wheel_test.py", "torch==2.11 ; touch victim", "https://x/it's"]
    assert not list(tmp_path.rglob("victim"))


SHELLS = [shell for shell in ("bash", "dash", "zsh") if shutil.which(shell)]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("options", [[], ["-u"], ["-e"], ["-eu"]])
def test_the_environment_is_for_bash_and_says_so(tmp_path, shell, options):
    folder = tmp_path / "a b'c$(touch victim)"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "env.sh", folder / "scripts")
    script = '. "$1" && echo "sourced $-" ; printf "%s" "$VIRTUAL_ENV|$PATH"'
    env = {"PATH": "/usr/bin:/bin:/x y/$(touch victim)", "CDPATH": str(tmp_path)}

    def source():
        command = [shell, *options, "-c", script, shell, str(folder / "scripts" / "env.sh")]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)

    process = source()
    assert "sourced" not in process.stdout
    said = "is not built: run `make build` there" if shell == "bash" else "is for bash: start bash"
    assert said in process.stderr.splitlines()[0]
    if shell == "bash":
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "python").symlink_to(shutil.which("true"))
        (folder / "install").mkdir()
        (folder / "install" / "local_setup.bash").write_text('[ -n "$AMENT_TRACE_SETUP_FILES" ] || : # not set\n')
        process = source()
        assert process.returncode == 0, process.stderr
        assert process.stdout.endswith(f"{folder}/.venv|{folder}/.venv/bin:{env['PATH']}")
        flags = process.stdout.partition("sourced ")[2].split()[0]
        assert all((flag in flags) == (flag in "".join(options)) for flag in "eu")
    assert not list(tmp_path.rglob("victim"))
