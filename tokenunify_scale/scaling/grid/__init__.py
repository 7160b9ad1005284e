"""What a study is: the recipe's fields, its axes and rules, and the graph of jobs they make."""
