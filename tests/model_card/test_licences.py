from tokenunify_scale.model_card.licences import FRESH, MADE_UP, PAPER, UNKNOWN, licence
from tokenunify_scale.model_card.records import Lineage, lineage
from tokenunify_scale.model_card.sources import Source

MADE = Source(name="synthetic:", synthetic=True)
KNOWN = Source(name="a", licence="CC BY 4.0")
SILENT = Source(name="b")


def test_only_fresh_weights_and_those_of_made_up_data_are_open(finetune):
    line = lineage(finetune())
    assert licence(Lineage(), []) == ({"license": "apache-2.0"}, FRESH)
    assert licence(line, [[MADE]]) == ({"license": "apache-2.0"}, MADE_UP)
    for found in ([[KNOWN]], [[MADE, KNOWN]], [[MADE], [KNOWN]]):
        terms, why = licence(line, found)
        assert terms == {"license": "other", "license_name": "terms-of-the-training-data"}
        assert "No open licence" in why


def test_what_is_not_known_of_any_training_leaves_the_licence_unknown(finetune):
    line = lineage(finetune())
    for found in ([[SILENT]], [[KNOWN, SILENT]], [[MADE], [SILENT]], [[]]):
        assert licence(line, found) == ({"license": "unknown"}, UNKNOWN)
    gone = lineage(finetune("ft2", init="gone"))
    assert licence(gone, [[MADE]])[0] == {"license": "unknown"}


def test_the_papers_weights_are_for_research_whatever_came_after(finetune, write):
    write("imp", "import_official", result={"file": "x.pth", "sha256": "f00"})
    line = lineage(finetune(init="imp"))
    terms, why = licence(line, [[], [MADE]])
    named = {"license": "other", "license_name": "research-only", "license_link": PAPER}
    assert terms == named and PAPER in why
