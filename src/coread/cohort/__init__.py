"""Cohorts: which studies a query gives, and the plan that is made of them."""
