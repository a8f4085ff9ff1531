"""What labels alone prove: tests of fixed size, tests that may be stopped at any time, and the queries they take."""
