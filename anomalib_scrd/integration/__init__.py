"""Registration with anomalib, start-up file and command line; README.md lists the private names of others in use."""

__all__ = ["register_now_or_later"]

try:
    # A wheel contains the start-up module next to the package only.
    from anomalib_scrd_startup import register_now_or_later
except ImportError:  # a source tree on the path that is not installed
    from anomalib_scrd.integration.startup import register_now_or_later
