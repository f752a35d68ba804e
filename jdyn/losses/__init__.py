"""What a method adds to the objective."""
