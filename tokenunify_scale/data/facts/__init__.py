"""Facts of public data sets, and the tables made of them."""
