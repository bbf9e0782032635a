"""`report.html`: one page with everything a person needs to judge the images of a run."""
