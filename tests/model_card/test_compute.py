from tokenunify_scale.model_card.compute import compute
from tokenunify_scale.model_card.records import Lineage, lineage

LINES = [
    {"step": 10, "time": 1767225620.0, "tflop_per_s": 2.0, "crops_per_s": 4.0, "peak_rss_gib": 1.5},
    {"step": 20, "time": 1767225630.0, "peak_rss_gib": 1.25},
]


def test_what_was_recorded_is_told_and_the_rest_is_not_measured(finetune):
    text = compute(lineage(finetune(metrics=LINES)))
    assert "| wall time | 61 s (0.0171 hours) |" in text
    assert "| device time | 0.0341 rank-hours on the CPU; core-hours: not measured |" in text
    assert "| FLOPs of the training | 3e+14 |" in text, "0.5 TFLOP a crop, 600 crops"
    assert "| largest memory of a rank | 1.5 GiB |" in text
    assert "| largest GPU memory of a rank | not measured |" in text and "went on" not in text


def test_hours_of_gpus_are_called_so(finetune):
    gpu = {"scan": {"device": "cuda"}}
    text = compute(lineage(finetune(environment=gpu, result={"seconds": 3600})))
    assert "| device time | 2 GPU-hours |" in text


def test_a_run_that_was_stopped_owns_up_to_it(finetune):
    early = [{**LINES[0], "time": 1767225000.0}]
    assert "was stopped and went on" in compute(lineage(finetune(metrics=early)))


def test_nothing_is_claimed_of_an_unfinished_run_or_of_none(finetune):
    text = compute(lineage(finetune(done=False), tag="step-00000040"))
    assert "| wall time | not measured |" in text
    assert compute(Lineage()) == "Not measured."
