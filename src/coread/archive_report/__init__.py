"""What an archive run found, how it differs from an earlier one, and what drifted: as a page, JSON and Parquet."""
