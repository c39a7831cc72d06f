//! What state an archive is in.
