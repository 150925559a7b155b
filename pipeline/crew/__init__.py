"""One run in several processes: one hands out the rows and holds the plan, the others ask and record."""
