from tokenunify_scale.train.finding import Finding, Patient, some, together


def finding(host, severity="error", found="torch 2.4"):
    return Finding(host, "packages", severity, found, "2.5", "pip install torch==2.5")


def test_a_finding_is_one_line_with_host_check_and_remedy():
    assert str(finding("node2")) == (
        "FAIL node2, packages: torch 2.4; wanted: 2.5; remedy: pip install torch==2.5"
    )
    assert str(finding("node2", "warning")).startswith("warn node2")


def test_what_many_hosts_have_in_common_is_said_once():
    both = [finding("a"), finding("a", found="torch 2.3"), finding("b"), finding("b", "warning")]
    told = together(both)
    assert [f.host for f in told] == ["a, b", "a", "b"] and told[0].found == "torch 2.4"


def test_a_command_is_run_where_it_helps():
    assert Patient(name=None, facts={}).on("rm 'a b'") == "rm 'a b'"
    there = Patient(name="me@node2", facts={}).on("rm 'a b'")
    assert there == """ssh me@node2 'rm '"'"'a b'"'"''"""
    assert some(["a", "b"]) == "a, b" and some(list("abcd")) == "a, b, c, ..."
