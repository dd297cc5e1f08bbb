"""Reports of a suite: a page to look at, JUnit XML for pipelines, JSON for programs."""
