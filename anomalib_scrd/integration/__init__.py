"""Registration with anomalib, start-up file and command line; README.md lists the private names of others in use."""

__all__ = ["register_now_or_later"]

try:
    # A wheel has the start-up module beside the package and nowhere else.
    from anomalib_scrd_startup import register_now_or_later
except ImportError:  # a source tree that is on the path and not installed
    from anomalib_scrd.integration.startup import register_now_or_later
