"""The shared pieces of the objectives, named by what they do; none of them knows an objective."""
