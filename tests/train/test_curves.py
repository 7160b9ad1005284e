from tokenunify_scale.train.curves import group_of, in_short, losses_of, of_groups, points

LINE = {
    "step": 20, "time": 5.0, "loss": 0.5, "random": None, "held_out_loss": 0.6, "grad_norm": 2.0,
    "lr": 1e-3, "weight_random": 0.7, "crops_per_s": 3.21, "mfu": 0.4, "peak_tflops": 312.0,
    "peak_rss_gib": 1.5,
}  # fmt: skip


def test_a_value_that_no_group_names_is_a_loss():
    assert [group_of(name) for name in ("loss", "next_all", "held_out_next", "weight_next")] == [
        "loss", "loss", "held_out", "weight",
    ]  # fmt: skip
    assert [group_of(name) for name in ("step", "mfu", "lr", "peak_gpu_gib")] == [
        "", "rate", "optim", "memory",
    ]  # fmt: skip


def test_what_was_learned_is_told_from_how_fast():
    assert losses_of(LINE) == {"loss": 0.5, "random": None, "held_out_loss": 0.6, "grad_norm": 2.0}
    assert of_groups(LINE, "rate", "memory") == {
        "crops_per_s": 3.21, "mfu": 0.4, "peak_rss_gib": 1.5,
    }  # fmt: skip


def test_a_curve_is_named_by_its_group_and_an_unknown_value_is_no_point():
    assert points(LINE) == {
        "loss/loss": 0.5, "held_out/loss": 0.6, "optim/grad_norm": 2.0, "optim/lr": 1e-3,
        "weight/random": 0.7, "rate/crops_per_s": 3.21, "rate/mfu": 0.4,
        "memory/peak_rss_gib": 1.5,
    }  # fmt: skip


def test_a_line_in_short():
    assert in_short(LINE) == "loss 0.5, 3.21 crops/s" and in_short({"step": 0}) == ""
