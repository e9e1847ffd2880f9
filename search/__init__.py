"""The study: record, proposers, engines, loop, analysis and the command line."""
