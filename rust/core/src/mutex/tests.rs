//! mutex.
