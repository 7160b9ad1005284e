import os
import sys

from tokenunify_scale.train.outlet import Outlet, outliving_readers


def test_what_nobody_reads_is_dropped_and_so_is_all_that_follows():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as stream:
        outlet = Outlet(stream)
        assert outlet.write("a line\n") == 7
        outlet.flush()
        os.write(stream.fileno(), b"from C code\n")
        assert outlet.fileno() == stream.fileno() and not outlet.isatty()


def test_a_full_disk_takes_a_part_of_the_log_and_ends_nothing():
    with open("/dev/full", "w", buffering=1) as stream:
        outlet = Outlet(stream)
        outlet.write("a line\n")
        outlet.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def test_both_streams_are_as_before_afterwards():
    before = sys.stdout, sys.stderr
    with outliving_readers():
        assert isinstance(sys.stdout, Outlet) and isinstance(sys.stderr, Outlet)
    assert (sys.stdout, sys.stderr) == before
