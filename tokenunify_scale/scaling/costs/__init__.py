"""What every job of a study will need, before anything starts: counted, then timed, then told."""
