//! chan.
