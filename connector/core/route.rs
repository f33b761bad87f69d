//! Which topic a relation's records go to. Pure, and asked once per relation version.
