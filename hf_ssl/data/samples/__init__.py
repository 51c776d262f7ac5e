"""Small real data that come with the package, and the programs that rebuild them from registry packages."""
