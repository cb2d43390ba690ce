"""Warnings about ROS arguments that have no effect."""

import pytest

from m2f_ros.node.arguments import without_effect

NODE = "/robot/seg"


@pytest.fixture
def said(tmp_path):
    """said(text of a file of parameters, node) -> lines."""

    def said(text: str, node: str = NODE) -> list[str]:
        (tmp_path / "p.yaml").write_text(text)
        arguments = ["--ros-args", "--params-file", str(tmp_path / "p.yaml")]
        return [line.replace(str(tmp_path), "") for line in without_effect(arguments, node)]

    return said


# Parameters that Kilted's rclpy gives to /n and to /a/n.
@pytest.mark.parametrize(
    ("key", "root", "nested"),
    [
        *[("/**", True, True), ("/*", True, False), ("/**/n", True, True), ("/*/n", False, True)],
        *[("n", True, False), ("/n", True, False), ("/a/n", False, True), ("a/n", False, True)],
        *[("/a/**", False, True), ("/a/*", False, True), ("b/n", False, False), ("/a/n2", False, False)],
        *[("/**/a/n", False, True), ("**/n", True, True), ("*", True, False)],
    ],
)
def test_names_fit_as_for_rclpy(said, key, root, nested):
    text = f'"{key}":\n  ros__parameters:\n    x: 1\n'
    assert [not said(text, "/n"), not said(text, "/a/n")] == [root, nested]


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("segmentation_node:\n  ros__parameters: {model: x}\n", "its parameters are for segmentation_node"),
        ("a:\n  b:\n    ros__parameters: {x: 1}\n/c:\n  ros__parameters: {x: 1}\n", "its parameters are for a/b, /c"),
        ("", "it has none"),
    ],
)
def test_a_file_for_other_nodes_is_named(said, text, there):
    assert said(text) == [
        f"/p.yaml sets nothing of this node: {there}; name /robot/seg there, or /** for any node",
    ]


def test_a_file_for_several_nodes_is_fine_where_this_one_is_among_them(said):
    assert said("other:\n  ros__parameters: {x: 1}\nrobot:\n  seg:\n    ros__parameters: {x: 1}\n") == []


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["-r", "~/image:=/a", "--remap", "~/image:=/b"], ["~/image is remapped twice: /a holds, /b does not"]),
        (["-r", "~/image:=/a", "-r", "/robot/seg/image:=/b"],
         ["/robot/seg/image is remapped twice: /a holds, /b does not"]),
        (["-r", "x:=/a", "-r", "/robot/x:=/b"], ["/robot/x is remapped twice: /a holds, /b does not"]),
        (["-r", "~/x:=/a", "-r", "x:=/b", "-r", "/x:=/c"], []),
        (["-r", "/root/image:=/a"],
         ["--remap /root/image:=/a changes nothing: the shell wrote /root/ for ~/; put the rule in quotes"]),
        (["-r", "~/image:=/a", "-r", "~/image:=/a", "-r", "/a:=/b", "-r", "__node:=seg"], []),
        (["-p", "other:model:=x"], ["--param other:model:=x is for a node other; this one is /robot/seg"]),
        (["-r", "seg:~/image:=/a", "-p", "seg:model:=x", "-p", "model:=http://x", "-p", "a.b:=c:d"], []),
    ],
)  # fmt: skip
def test_rules_and_values_that_change_nothing(arguments, lines, monkeypatch):
    monkeypatch.setenv("HOME", "/root")
    assert without_effect(["--bar", "--ros-args", *arguments, "--", "-r", "~/image:=/c"], NODE) == lines
