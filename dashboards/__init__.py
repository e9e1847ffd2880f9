"""Records -> tables -> figures -> pages.

Import the module you need (`dashboards.report`, `dashboards.tables`, ...): pandas and plotly are
slow to load, and `search --help` must not pay for them. So nothing is imported here.
"""
